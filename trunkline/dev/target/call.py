"""One request to an API, and what can be read from it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import orjson


@dataclass(frozen=True, slots=True)
class Call:
    """One request to an API."""

    name: str
    method: str
    path: str
    key: str | None
    body: bytes
    body_sha256: str

    @property
    def lane(self) -> tuple[str, str]:
        """The API and the first segment of the path: what a client may keep in order."""
        return self.name, self.path.split("/", 2)[1]


def key_of(method: str, path: str, headers: Mapping[str, str]) -> str | None:
    """Give a request's idempotency key: its header without quotes, else what HTTP itself calls idempotent."""
    key = headers.get("idempotency-key", "").strip()
    if len(key) >= 2 and key[0] == key[-1] == '"':
        key = re.sub(r"\\(.)", r"\1", key[1:-1])
    return key or (f"{method} {path}" if method in {"PUT", "DELETE"} else None)


def member(body: bytes, name: str) -> str | int | None:
    """Give a field of a JSON object: a text or whole number as it is, anything else as JSON; None when it has none."""
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(fields, dict) or name not in fields:
        return None
    found = fields[name]
    return found if type(found) in (str, int) else orjson.dumps(found).decode()
