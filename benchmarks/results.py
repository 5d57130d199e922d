"""The page of the last results, a section for each benchmark: benchmarks/RESULTS.md."""

import platform
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

PAGE = Path(__file__).parent / "RESULTS.md"


def keep(title: str, lines: Iterable[str], page: Path = PAGE) -> None:
    """Put a section under `## title` in place of the one before; the others stay, in the order of their titles."""
    text = page.read_text() if page.exists() else ""
    found = re.split(r"(?m)^## (.*)\n", text)
    sections = dict(zip(found[1::2], (part.strip() for part in found[2::2]), strict=True))
    sections[title] = "\n".join(lines).strip()
    parts = [f"## {name}\n\n{sections[name]}" for name in sorted(sections)]
    page.write_text("\n\n".join(["# What was measured last", *parts]) + "\n")


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Write a table: the first column is text, the others are figures."""
    ruler = ["---", *(["---:"] * (len(heads) - 1))]
    return [f"| {' | '.join(line)} |" for line in (heads, ruler, *rows)]


def machine() -> str:
    """Say what this runs on."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    models = [line.partition(":")[2].strip() for line in info.splitlines() if line.startswith("model name")]
    return f"{len(models)} cores, {models[0]}" if models else platform.processor()
