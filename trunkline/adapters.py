"""The contracts between the bus and the code that people write: what comes in, what goes out, and what each promises.

Source:  WebhookRequest ──events──▶ [Event]          pure; raises Rejected for the sender's mistakes
Sink:    Event ──request──▶ Request                  pure; raises Permanent when the event cannot be expressed
         Response ──verdict──▶ Verdict               pure
"""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar
from urllib.parse import quote

from pydantic import TypeAdapter, ValidationError

from trunkline.errors import Permanent, Rejected
from trunkline.event import Event
from trunkline.verdict import Verdict

T = TypeVar("T")


validator: Callable[[Any], TypeAdapter[Any]] = functools.cache(TypeAdapter)
"""Give the validator of a TypedDict, built once."""


def fields_of(error: ValidationError) -> list[tuple[str, str]]:
    """Name what a validation error is about: (path such as lines[3].quantity, what is wrong)."""
    found = []
    for item in error.errors(include_url=False, include_context=False, include_input=False):
        path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in item["loc"]).lstrip(".")
        found.append((path, item["msg"]))
    return found


@dataclass(frozen=True, slots=True)
class WebhookRequest:
    """A request as it arrived, already verified: header names are lower-case, the body is untouched."""

    headers: Mapping[str, str]
    body: bytes

    def json(self, shape: type[T]) -> T:
        """Read the body as JSON of this shape (a TypedDict); types are strict, unknown fields are ignored.

        Raises:
            Rejected: 400 when it is no JSON, 422 with every wrong field when it has another shape.
        """
        try:
            value: T = validator(shape).validate_json(self.body, strict=True)
        except ValidationError as error:
            fields = fields_of(error)
            if fields and error.errors()[0]["type"] == "json_invalid":
                raise Rejected(400, "The body is no JSON", f"{fields[0][1]}.") from None
            names = ", ".join(path for path, _ in fields[:5])
            raise Rejected(422, "The event is not valid", f"Wrong or missing: {names}.", fields) from None
        return value


class Verifier(Protocol):
    """Proves who sent a webhook, on the raw bytes, before anything is parsed."""

    def check(self, headers: Mapping[str, str], body: bytes) -> None:
        """Return when the sender is who they say.

        Raises:
            Rejected: 401, without saying which part of the proof was wrong.
        """
        ...

    def sign(self, message_id: str, body: bytes) -> dict[str, str]:
        """Give the headers that a sender of this body adds now."""
        ...


class Source(Protocol):
    """An upstream system that posts events."""

    verify: Verifier

    @property
    def name(self) -> str:
        """Its name: the last part of the gateway's path and of the events' source."""
        ...

    def events(self, request: WebhookRequest) -> Sequence[Event[Any]]:
        """Give the events of one request; called once per request, must be pure.

        Raises:
            Rejected: the request is wrong; nothing of it is published.
        """
        ...


@dataclass(frozen=True, slots=True)
class Request:
    """What a sink asks of its target: method, percent-encoded path below the target's address, JSON body."""

    method: str
    path: str
    json: Any = None

    @classmethod
    def put(cls, template: str, *, path: Mapping[str, object] | None = None, json: Any = None) -> "Request":
        """PUT `json` to the template's path."""
        return cls("PUT", expand(template, path or {}), json)

    @classmethod
    def post(cls, template: str, *, path: Mapping[str, object] | None = None, json: Any = None) -> "Request":
        """POST `json` to the template's path."""
        return cls("POST", expand(template, path or {}), json)


def expand(template: str, values: Mapping[str, object]) -> str:
    """Fill `{name}` places of a path; every value becomes exactly one path segment, whatever is in it (RFC 3986 §3.3).

    Raises:
        Permanent: a value is missing, empty, or "." or "..", which no encoding keeps from being resolved away.
    """

    def fill(match: re.Match[str]) -> str:
        name = match[1]
        value = values.get(name)
        text = "" if value is None else str(value)
        if text in ("", ".", ".."):
            raise Permanent(f"the path {template} needs a {name}; the event has {text!r}")
        return quote(text, safe="")

    return re.sub(r"\{(\w+)\}", fill, template)


@dataclass(frozen=True, slots=True)
class Response:
    """What a target answered: header names are lower-case, at most 64 KiB of the body."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


class Sink(Protocol):
    """A target API, seen from the bus."""

    @property
    def name(self) -> str:
        """Its name: part of the idempotency key, so of every delivery's identity."""
        ...

    @property
    def target(self) -> Any:
        """The remote system that the sink calls."""
        ...

    def request(self, event: Event[Any]) -> Request:
        """Say what to send for one event. Pure: called again for every attempt.

        Raises:
            Permanent: the event cannot be expressed; it becomes a dead letter.
        """
        ...

    def verdict(self, response: Response) -> Verdict:
        """Say what an answer means."""
        ...
