"""What the pages for operators name is there: every setting with its default, and every command; also what we say."""

import re
from pathlib import Path
from typing import Any

import typer

from trunkline.cli.main import COMMANDS, command_at, loaded
from trunkline.settings import Settings, names

PAGES = [Path("README.md"), Path("CONTRIBUTING.md"), *Path("docs").glob("*.md")]
ROW = re.compile(r"^\| `(TRUNKLINE_\w+)` \| (.*?) \|", re.MULTILINE)
COMMAND = re.compile(r"(?:`|^\s*\$? ?|\()trunkline (?:--env \S+ )?([a-z]+)(?: ([a-z]+))?", re.MULTILINE)
TYPED = re.compile(r"(?:`|\$ |: )trunkline ((?:[\w.…|/'-]+ ?)+)")
TOLD = {"TRUNKLINE_KAFKA__BOOTSTRAP", "TRUNKLINE_KAFKA__REGISTRY"}
"""What is used where they are unset is no value."""


def test_every_setting_is_told_with_its_default() -> None:
    rows = dict(ROW.findall(Path("docs/running.md").read_text()))
    assert list(rows) == list(names())
    for name, told in rows.items():
        found: Any = Settings()
        for part in name.removeprefix("TRUNKLINE_").lower().split("__"):
            found = getattr(found, part)
        if name not in TOLD:
            assert told.strip("`") == ("none" if found in (None, ()) else str(found)), name


def test_every_command_that_a_page_names_is_there() -> None:
    groups = {name: command_at(place) for name, (place, _) in COMMANDS.items()}
    seen = 0
    for page in PAGES:
        for name, below in COMMAND.findall(page.read_text()):
            assert name in groups, f"{page}: trunkline {name}"
            group = groups[name]
            if below and isinstance(group, typer.Typer):
                known = {one.name or one.callback.__name__ for one in group.registered_commands if one.callback}
                assert below in known, f"{page}: trunkline {name} {below}"
            seen += 1
    assert seen > 100


def test_every_command_that_is_to_be_typed_is_there_with_its_options() -> None:
    """By the pages, or by what a command, a log line or an error says."""
    seen = 0
    for file in [*PAGES, *Path("trunkline").rglob("*.py")]:
        for typed in TYPED.findall(file.read_text()):
            name, *rest = typed.rstrip(".").split()
            if not re.fullmatch("[a-z]+", name):
                continue  # options of trunkline itself
            assert name in COMMANDS, f"{file}: trunkline {typed}"
            command: Any = loaded(name)
            if below := getattr(command, "commands", None):
                if not rest or not re.fullmatch("[a-z]+", rest[0]):
                    continue
                assert rest[0] in below, f"{file}: trunkline {typed}"
                command = below[rest[0]]
            known = {option for one in command.params for option in one.opts} | {"--help"}
            for word in rest:
                assert not word.startswith("-") or word == "-" or word in known, f"{file}: trunkline {typed}"
            seen += 1
    assert seen > 150
