"""The README includes files of this repository word for word; run this file with `python` to renew it."""

import re
from pathlib import Path

README = Path("README.md")
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


def test_every_linked_file_is_there() -> None:
    pages = [README, Path("CONTRIBUTING.md"), *Path("docs").rglob("*.md")]
    for page in pages:
        for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
            assert (page.parent / link).exists(), f"{page} links to {link}"


if __name__ == "__main__":
    README.write_text(included(README.read_text()))
