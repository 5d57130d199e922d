"""The list of commands says what each command says of itself, though it loads none."""

import inspect

import pytest
import typer

from trunkline.cli.main import COMMANDS, command_at


@pytest.mark.parametrize("name", [name for name, (_, told) in COMMANDS.items() if told])
def test_the_list_says_of_a_command_what_it_says_itself(name: str) -> None:
    place, told = COMMANDS[name]
    found = command_at(place)
    assert isinstance(found, typer.Typer) or str(inspect.getdoc(found)).splitlines()[0] == told
