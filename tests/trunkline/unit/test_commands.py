"""The list of commands says what each command says of itself, though it loads none."""

import inspect
import sys

import pytest
import typer

from trunkline.cli.main import COMMANDS, app, command_at


@pytest.mark.parametrize("name", [name for name, (_, told) in COMMANDS.items() if told])
def test_the_list_says_of_a_command_what_it_says_itself(name: str) -> None:
    place, told = COMMANDS[name]
    found = command_at(place)
    assert isinstance(found, typer.Typer) or str(inspect.getdoc(found)).splitlines()[0] == told


def test_what_a_command_complains_of_moves_no_cursor(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["trunkline", "walk", "\x1b[2Jstore\nfront\u202e"])
    with pytest.raises(SystemExit, match="2"):
        app()
    assert "there is no source �[2Jstore�front�. The sources are: storefront, carrier.\n" in capsys.readouterr().err
