"""Sinks for one HTTP API: one request per event or per batch of events, or whatever a hand-written one does."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

from trunkline.adapters import Item
from trunkline.errors import Permanent
from trunkline.event import Event
from trunkline.flow.declare import Target
from trunkline.requests import Idempotency, Request
from trunkline.responses import Response
from trunkline.verdict import Delivered, Verdict, judge

if TYPE_CHECKING:  # importing a topology loads no HTTP client
    import httpx

ENTITY_TAG = re.compile(r'(W/)?"[^"]*"')
"""A version as HTTP writes it (RFC 9110 §8.8.3)."""


class HttpSink:
    """A target API: say what to send. The bus adds address, credentials, idempotency key, limit, retries and ledger.

    Every request carries `Idempotency-Key: <32 characters>`, the same for every attempt, worker, restart and replay.
    Say `idempotency = Idempotency(header=…)` where the target names it otherwise, and `idempotency = None` where it
    knows no such keys: then an event whose outcome is unknown is not sent again, but becomes a dead letter. Say
    `writes = "latest"` where the target stores the last state of a key, so that an older event is superseded. After a
    rename, `was` keeps the former name: keys and ledger rows go on under it. `speaks` names the version of the target's
    API that the sink is written for, as the target writes it: `status` and `sink check` compare with it.

    A topic may hold records without a value, which say that a key is no more: write `delete` where the target is to
    hear of that. Without it such a record is poison.

    Where one request isn't enough, name several calls (`CompositeSink`), or write `async def deliver(self, event,
    call)` instead of `request`: see `Calls`.

    A bulk API takes up to `together` events in one call: write `batch` instead of `request`, and `verdicts` where it
    answers for each event apart. An item's key goes into the body where the API takes one for each
    (`Idempotency(header=None)`); else the one in the header is made of all of them.
    """

    name: ClassVar[str]
    was: ClassVar[str] = ""
    idempotency: ClassVar[Idempotency | None] = Idempotency()
    writes: ClassVar[Literal["each", "latest"]] = "each"
    together: ClassVar[int] = 1
    speaks: ClassVar[str] = ""

    def __init__(self, target: Target) -> None:
        self.target = target

    def request(self, event: Event[Any]) -> Request:
        """Say what to send for one event. Pure: it is called again for every attempt.

        Raises:
            Permanent: the event cannot be expressed; it becomes a dead letter of this sink.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say what to send for an event")

    def verdict(self, response: Response) -> Verdict:
        """Say what an answer means; override it where a target is odd."""
        if 200 <= response.status < 300:  # as `judge` says too, for whom the clock need not be read
            return Delivered(response.status)
        return judge(
            response.status,
            response.headers,
            response.body,
            now=datetime.now(UTC),
            method=response.method,
            keyed=self.idempotency is not None,
            latest=self.writes == "latest",
        )

    def batch(self, items: Sequence[Item[Any]]) -> Request:
        """Say what to send for one or more events, no two of one key. Pure: it is called again for every attempt.

        Raises:
            Permanent: one of the events cannot be expressed; those of a larger batch are then asked for one by one.
        """
        [item] = items
        return self.request(item.event)

    def verdicts(self, response: Response, items: Sequence[Item[Any]]) -> Sequence[Verdict]:
        """Say what an answer means for each event, in their order; override it where the API tells them apart."""
        return [self.verdict(response)] * len(items)


@runtime_checkable
class Deletes(Protocol):
    """A sink that tells its target when a key is no more."""

    def delete(self, event: Event[Any]) -> Request:
        """Say what to send for an event without a value: it has its key and no data. Pure, as `request` is."""
        ...


class Calls(Protocol):
    """What a hand-written `deliver` makes its calls with.

    It is called again after every failure, restart and replay, from its beginning: each call that writes must carry its
    key, `key` where there is one, else `key_for` its name. It returns the answer that decides, judged by the sink's
    `verdict`, or a verdict; an answer that `raise_for_status` raises is judged too. All of it has 20 s.
    """

    @property
    def key(self) -> str:
        """The idempotency key of the delivery."""
        ...

    def key_for(self, name: str) -> str:
        """Give the idempotency key of a named call."""
        ...

    @property
    def http(self) -> "httpx.AsyncClient":
        """A client bound to the sink's target, with its address, credentials and connections."""
        ...


@runtime_checkable
class Written(Protocol):
    """A sink that makes its calls itself."""

    async def deliver(self, event: Event[Any], call: Calls) -> "Verdict | httpx.Response":
        """Deliver one event."""
        ...


def if_match(version: object) -> dict[str, str]:
    """Give the header of a write that counts only while the target holds this version of it (RFC 9110 §13.1.1).

    A target that holds another answers 412, which says of a sink with `writes = "latest"` that the event is superseded.
    A version that is an entity-tag already, as it stood in an `ETag` header, is sent as it is.

    Raises:
        Permanent: there is no version, or one with a quotation mark in it, which the target could only answer with 412.
    """
    text = "" if version is None else str(version)
    tag = text if ENTITY_TAG.fullmatch(text) else f'"{text}"'
    if not text or not ENTITY_TAG.fullmatch(tag):
        raise Permanent(f"the request cannot be made: {text[:60]!r} is no version that If-Match can name")
    return {"If-Match": tag}
