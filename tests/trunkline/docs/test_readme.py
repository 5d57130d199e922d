"""The README includes files of this repository word for word; run this file with `python` to renew it."""

import json
import re
from pathlib import Path

from trunkline.dev.demo.screen import screen

README = Path("README.md")
RECORDED = re.compile(r"<!-- recorded: (?P<path>\S+) -->\n```text\n(?P<body>.*?)```\n", re.DOTALL)
INCLUDE = re.compile(r"<!-- include: (?P<path>\S+) -->\n```python\n(?P<body>.*?)```\n", re.DOTALL)


def included(text: str) -> str:
    """Give the README with every included file as it is now."""

    def fill(match: re.Match[str]) -> str:
        path = match["path"]
        return f"<!-- include: {path} -->\n```python\n{Path(path).read_text()}```\n"

    return INCLUDE.sub(fill, text)


def test_the_readme_shows_the_files_as_they_are() -> None:
    text = README.read_text()
    assert len(INCLUDE.findall(text)) == 3
    assert included(text) == text


def recorded(text: str) -> str:
    """Give the README with the recorded run of the demo drawn as the demo draws it."""

    def fill(match: re.Match[str]) -> str:
        lines = screen(json.loads(Path(match["path"]).read_text()))
        return f"<!-- recorded: {match['path']} -->\n```text\n" + "\n".join(lines) + "\n```\n"

    return RECORDED.sub(fill, text)


def test_the_readme_shows_a_recorded_run_as_the_demo_draws_it() -> None:
    text = README.read_text()
    [(_, body)] = RECORDED.findall(text)
    assert recorded(text) == text
    assert body.count("\n") <= 30
    assert body.count("✓") == 14
    assert "✗" not in body


def test_every_linked_file_is_there() -> None:
    pages = [README, Path("CONTRIBUTING.md"), *Path("docs").rglob("*.md")]
    for page in pages:
        for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
            assert (page.parent / link).exists(), f"{page} links to {link}"


def test_every_linked_section_is_there() -> None:
    pages = [README, Path("CONTRIBUTING.md"), *Path("docs").rglob("*.md")]
    seen = 0
    for page in pages:
        for link, section in re.findall(r"\]\((?!https?:)([^)#]*)#([^)]+)\)", page.read_text()):
            linked = page.parent / link if link else page
            headings = re.findall(r"^#+ (.+)$", linked.read_text(), re.MULTILINE)
            named = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert section in named, f"{page} links to {link}#{section}"
            seen += 1
    assert seen > 10


if __name__ == "__main__":
    README.write_text(recorded(included(README.read_text())))
