"""What a target says of its API's future beside its answers: Deprecation (RFC 9745), Sunset (RFC 8594), Warning.

Pure. Whatever a header holds, nothing is raised: what cannot be read is told as it stands.
"""

import email.utils
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from trunkline.redact import redact

LONGEST = 200
"""Characters of a target's own words that are kept."""
SF_DATE = re.compile(r"@(-?[0-9]{1,15})\s*(?:;.*)?")
"""A Date of RFC 9651, with parameters or without."""
WARNING = re.compile(r'([0-9]{3}) \S+ "((?:[^"\\]|\\.)*)"(?: "[^"]*")?')
"""One warning-value (RFC 7234 §5.5): code, agent, text, date."""
LINK = re.compile(r'<([^<>]*)>((?:\s*;\s*[\w*-]+\s*=\s*(?:"[^"]*"|[^",;\s]*))*)')
RELATIONS = ("deprecation", "sunset", "successor-version", "latest-version")
"""Relations under which a Link says where to read more, the plainest first."""


@dataclass(frozen=True, slots=True)
class Notice:
    """One thing that a target announces; `at` is the moment that it names, None when it names none."""

    kind: Literal["deprecation", "sunset", "warning"]
    text: str
    at: datetime | None = None


def notices_of(headers: Mapping[str, str]) -> Iterator[Notice]:
    """Read what the headers of an answer announce; their names are in lower case."""
    more = link_of(headers.get("link", ""))
    if (said := headers.get("deprecation")) is not None and said.strip().lower() != "false":
        at = moment_of(said)
        yield Notice("deprecation", f"its API is deprecated{written(at, ' since ', said)}{more}", at)
    if (said := headers.get("sunset")) is not None:
        at = moment_of(said)
        yield Notice("sunset", f"its API ends{written(at, ' on ', said) or ' soon'}{more}", at)
    if (said := headers.get("warning")) is not None:
        for text in warnings_of(said):
            yield Notice("warning", f"it warns: {text}")


def moment_of(said: str) -> datetime | None:
    """Read a moment, in UTC: a structured date, or one of HTTP (RFC 9110 §5.6.7) as drafts of RFC 9745 had it too."""
    try:
        if (found := SF_DATE.fullmatch(said.strip())) is not None:
            return datetime.fromtimestamp(int(found[1]), UTC)
        at = email.utils.parsedate_to_datetime(said)
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, TypeError, IndexError, OverflowError, OSError):
        return None


def written(at: datetime | None, before: str, said: str) -> str:
    """Write the moment, or what else is said; nothing for a bare yes."""
    if at is not None:
        return f"{before}{at:%Y-%m-%d}"
    return "" if said.strip().lower() in ("", "true", "?1", "1") else f" ({plain(said)})"


def warnings_of(said: str) -> list[str]:
    """Give the texts of warnings, each once; what has not their form as it stands."""
    found = [text.replace('\\"', '"') for _, text in WARNING.findall(said)]
    return list(dict.fromkeys(plain(text) for text in found or [said] if text.strip()))


def link_of(said: str) -> str:
    """Say where to read more."""
    found = {relation: url for url, parameters in LINK.findall(said) for relation in relations_of(parameters)}
    url = next((found[relation] for relation in RELATIONS if relation in found), "")
    return f"; see {plain(url)}" if url else ""


def relations_of(parameters: str) -> list[str]:
    """Give the relations that a link's parameters name (RFC 8288 §3.3)."""
    found = re.search(r';\s*rel\s*=\s*(?:"([^"]*)"|([^";,\s]*))', parameters, re.IGNORECASE)
    return [] if found is None else (found[1] or found[2] or "").lower().split()


def plain(text: str) -> str:
    """Give a target's words on one line, harmless to a terminal, without secrets."""
    joined = redact(" ".join(text.split()))
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in joined)[:LONGEST]
