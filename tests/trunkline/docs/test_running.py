"""What the pages for operators name is there: every setting with its default, and every command."""

import re
from pathlib import Path
from typing import Any

import typer

from trunkline.cli.main import COMMANDS, command_at
from trunkline.settings import Settings, names

PAGES = [Path("README.md"), Path("CONTRIBUTING.md"), *Path("docs").glob("*.md")]
ROW = re.compile(r"^\| `(TRUNKLINE_\w+)` \| (.*?) \|", re.MULTILINE)
COMMAND = re.compile(r"(?:`|^\s*\$? ?|\()trunkline (?:--env \S+ )?([a-z]+)(?: ([a-z]+))?", re.MULTILINE)
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
