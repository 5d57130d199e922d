"""The contracts between the bus and the code that people write: what comes in, what goes out, and what each promises.

Source:  WebhookRequest ──events──▶ [Event]          pure; raises Rejected for the sender's mistakes
Sink:    [Item] ──batch──▶ Request                   pure; raises Permanent when the event cannot be expressed
         Response, [Item] ──verdicts──▶ [Verdict]    pure
"""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Generic, Literal, Protocol, TypeVar
from urllib.parse import quote

from pydantic import TypeAdapter, ValidationError

from trunkline.errors import Permanent, Rejected
from trunkline.event import Event
from trunkline.verdict import Verdict, of_exception

T = TypeVar("T")
D = TypeVar("D", bound=Mapping[str, Any])

Fields = Mapping[str, object]
Headers = Mapping[str, str]
NOTHING: Mapping[str, Any] = MappingProxyType({})


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
class Idempotency:
    """How a target takes the key under which a repeat has no second effect (draft-ietf-httpapi-idempotency-key-header).

    `header` names the request header, None where the key belongs into the body: then the sink's `batch` writes it.
    `quoted` writes the header as the draft's structured string, in double quotes; `longest` is the most characters of
    a key that the target takes.
    """

    header: str | None = "Idempotency-Key"
    quoted: bool = False
    longest: int = 255

    def cut(self, key: str) -> str:
        """Give as much of a key as the target takes."""
        return key[: self.longest]

    def headers(self, key: str) -> dict[str, str]:
        """Give the headers that carry a key."""
        if self.header is None:
            return {}
        return {self.header: f'"{self.cut(key)}"' if self.quoted else self.cut(key)}


@dataclass(frozen=True)  # with slots, Python 3.11 cannot call Item[X](…)
class Item(Generic[D]):
    """One event of a call, and its idempotency key, which is "" where the target knows none."""

    event: Event[D]
    key: str


@dataclass(frozen=True, slots=True)
class Request:
    """What a sink asks of its target: method, percent-encoded path below the target's address, JSON body, headers.

    Address, credentials and idempotency key are the bus's to add.
    """

    method: str
    path: str
    json: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def put(cls, template: str, *, path: Fields = NOTHING, json: Any = None, headers: Headers = NOTHING) -> "Request":
        """PUT `json` to the template's path."""
        return cls("PUT", expand(template, path), json, headers)

    @classmethod
    def post(cls, template: str, *, path: Fields = NOTHING, json: Any = None, headers: Headers = NOTHING) -> "Request":
        """POST `json` to the template's path."""
        return cls("POST", expand(template, path), json, headers)

    @classmethod
    def patch(cls, template: str, *, path: Fields = NOTHING, json: Any = None, headers: Headers = NOTHING) -> "Request":
        """PATCH the template's path with `json`."""
        return cls("PATCH", expand(template, path), json, headers)

    @classmethod
    def delete(cls, template: str, *, path: Fields = NOTHING, headers: Headers = NOTHING) -> "Request":
        """DELETE what is at the template's path."""
        return cls("DELETE", expand(template, path), None, headers)

    @classmethod
    def get(cls, template: str, *, path: Fields = NOTHING, headers: Headers = NOTHING) -> "Request":
        """GET what is at the template's path."""
        return cls("GET", expand(template, path), None, headers)


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
    """What a target answered to a `method`: header names are lower-case, at most 64 KiB of the body.

    `whole` is False when the body was longer than that, too slow or broken off: the status holds, the body may not.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    method: str = "POST"
    whole: bool = True


class Sink(Protocol):
    """A target API, seen from the bus."""

    @property
    def name(self) -> str:
        """Its name: part of the idempotency key, so of every delivery's identity."""
        ...

    @property
    def was(self) -> str:
        """The name it had before, "" when it had none: its deliveries stay known by that one (I1)."""
        ...

    @property
    def target(self) -> Any:
        """The remote system that the sink calls."""
        ...

    @property
    def idempotency(self) -> Idempotency | None:
        """How the target takes our key; None when it knows no keys: an unknown outcome is then for a person (D4)."""
        ...

    @property
    def writes(self) -> Literal["each", "latest"]:
        """What the target holds: the effect of each event, or the latest state of each key (D11, R2).

        With "latest" an event that comes after a later one of its key is superseded, not due.
        """
        ...

    @property
    def together(self) -> int:
        """The most events that one call takes; 1 when each has its own."""
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

    def batch(self, items: Sequence[Item[Any]]) -> Request:
        """Say what to send for `together` events at most, no two of one key (D10). Pure, as `request` is.

        Raises:
            Permanent: one of the events cannot be expressed; those of a larger batch are then asked for one by one.
        """
        ...

    def verdicts(self, response: Response, items: Sequence[Item[Any]]) -> Sequence[Verdict]:
        """Say what an answer means for each of the events, in their order."""
        ...


def judged(sink: Sink, response: Response, items: Sequence[Item[Any]]) -> list[Verdict]:
    """Ask a sink for its verdicts, one for each event; its mistakes have a verdict too."""
    try:
        verdicts = list(sink.verdicts(response, items))
    except Exception as error:  # noqa: BLE001 - whatever an adapter raises has a verdict
        return [of_exception(error)] * len(items)
    if len(verdicts) != len(items):
        return [Permanent(f"bug in the adapter: {len(verdicts)} verdicts for {len(items)} events")] * len(items)
    return verdicts
