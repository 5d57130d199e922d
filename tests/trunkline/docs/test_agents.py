"""docs/agents.md shows files and lines of this repository; run this file with `python` to renew it."""

import re
from pathlib import Path

from tests.trunkline.docs.test_readme import INCLUDE, included

PAGE = Path("docs/agents.md")


def test_the_page_shows_the_files_as_they_are() -> None:
    text = PAGE.read_text()
    assert len(INCLUDE.findall(text)) == 2
    assert included(text) == text


def test_the_declarations_are_those_of_the_topology() -> None:
    [shown] = re.findall(r"```text\n(Agent.*?)```", PAGE.read_text(), re.DOTALL)
    for line in shown.splitlines():
        assert f"        {line}\n" in Path("topology.py").read_text()


if __name__ == "__main__":
    PAGE.write_text(included(PAGE.read_text()))
