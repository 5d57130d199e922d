"""Source to topic: claimed in the ledger, published, acknowledged by every in-sync replica, only then answered (G1)."""

import asyncio
import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from trunkline.avro.codec import HEAD
from trunkline.engine import spans
from trunkline.errors import Permanent, Rejected, Unavailable, pass_on
from trunkline.event import TIMES, Event, Headers, is_timely, to_headers
from trunkline.flow.declare import Bus, Publish
from trunkline.flow.transform import stamp
from trunkline.kafka.events import Sender, Written
from trunkline.kafka.registry import Format
from trunkline.kafka.topics import RECORD_BYTES, size_of
from trunkline.ledger import claims
from trunkline.ledger.database import Connection
from trunkline.ledger.deliveries import payload_of
from trunkline.ledger.writer import Writer
from trunkline.observe import Observed, Observer, What
from trunkline.webhooks import WebhookRequest

SHOWN = 200
"""Characters of an id that are repeated."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """What became of one posted event; a duplicate has no place of its own."""

    id: str
    outcome: Literal["published", "duplicate"]
    topic: str = ""
    partition: int | None = None
    offset: int | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """An event that is ready to be claimed."""

    event: Event[Any]
    key: bytes | None
    value: bytes
    headers: Headers
    claim: bytes
    payload: bytes
    span: spans.Span | None


class Publisher:
    """Runs one Publish flow: give it verified requests."""

    def __init__(
        self, bus: Bus, flow: Publish, *, form: Format, sender: Sender, writer: Writer, observe: Observer
    ) -> None:
        self.name = flow.source.name
        self.source = flow.source
        self._bus = bus
        self._flow = flow
        self._form = form
        self._sender = sender
        self._writer = writer
        self._observe = observe
        self._owner = f"{socket.gethostname()}:{os.getpid()}:{time.time_ns()}"

    async def publish(self, request: WebhookRequest) -> list[Accepted]:
        """Publish the events of one verified request and return when all are acknowledged.

        Raises:
            Rejected: the request is wrong, or an id was used for another content; nothing of it was published.
            Unavailable: the broker or ledger does not answer, or the same event is being published; try again.
        """
        try:
            with CONTAINED:
                prepared = [self._prepare(event) for event in self.source.events(request)]
        except Rejected as error:
            self.reject(str(error))
            raise
        self._count("received", count=len(prepared))
        answers = await self._claim(prepared)
        sent = [
            None
            if answer == "published"
            else self._sender.sending(self._flow.to.name, item.key, item.value, item.headers)
            for item, answer in zip(prepared, answers, strict=True)
        ]
        accepted = []
        failure: Exception | None = None
        for item, future in zip(prepared, sent, strict=True):
            try:
                accepted.append(await self._acknowledged(item, future))
                self._count(accepted[-1].outcome)
            except (Rejected, Unavailable) as error:
                failure = error
                self._count("rejected", detail=str(error))
        if failure is not None:
            raise failure  # the sender posts the request again; what was published is a duplicate then
        return accepted

    def verify(self, headers: Mapping[str, str], body: bytes) -> None:
        """Return when the sender of a request is who they say.

        Raises:
            Rejected: they are not.
        """
        with CONTAINED:
            self.source.verify.check(headers, body)

    def reject(self, why: str) -> None:
        """Count a request that did not come as far as an event."""
        self._count("received")
        self._count("rejected", detail=why)

    def _prepare(self, event: Event[Any]) -> Prepared:
        name = f"Event {event.id[:SHOWN]}"  # a request may hold many
        if not is_timely(event.time, datetime.now(UTC)):
            why = f"{name} has the time {event.time.isoformat()}."
            raise Rejected(422, "The event is not valid", why, [("time", TIMES)])
        if not event.id:
            raise Rejected(422, "The event is not valid", "Its id is empty.", [("id", "an event needs an id")])
        try:
            stamped = stamp(self._bus, self._flow, event)
            about = {"trunkline.event": stamped.id, "messaging.destination.name": self._flow.to.name}
            stamped, span = spans.carried("publish", self._flow.to.name, stamped, about)
            value = self._form.encode(stamped.data)
        except Permanent as error:
            raise Rejected(422, "The event is not valid", f"{name}: {error}.") from None
        key, headers = None if stamped.key is None else stamped.key.encode(), to_headers(stamped)
        if (size := size_of(key, value, headers)) > RECORD_BYTES:
            why = f"{name} has {size} bytes with key and headers; {RECORD_BYTES} are allowed."
            raise Rejected(413, "The event is too large", why)
        claim, payload = claims.id_of(stamped.source, stamped.id), value[HEAD - claims.SCHEMA : HEAD]
        return Prepared(stamped, key, value, headers, claim, payload + payload_of(value[HEAD:]), span)

    async def _claim(self, prepared: Sequence[Prepared]) -> list[claims.Answer]:
        now = time.time()
        firsts: dict[bytes, Prepared] = {}

        def take(db: Connection) -> list[claims.Answer]:
            answers: list[claims.Answer] = []
            for item in prepared:
                first = firsts.setdefault(item.claim, item)
                if first is item:
                    answers.append(claims.take(db, item.claim, item.payload, self._owner, now))
                else:  # a copy in the same request: what becomes of the first becomes of it
                    answers.append("published" if first.payload == item.payload else "conflict")
            return answers

        try:
            answers = await self._writer.write(take)
        except Unavailable as error:
            self._count("rejected", count=len(prepared), detail=str(error))
            raise
        told: dict[claims.Answer, Prepared] = {}
        for item, answer in zip(prepared, answers, strict=True):
            told.setdefault(answer, item)
        if (wrong := told.get("conflict") or told.get("pending")) is None:
            return answers
        ours = [item.claim for item, answer in zip(prepared, answers, strict=True) if answer == "ours"]
        await self._release(ours)
        self._count("rejected", count=len(prepared), detail=f"event {wrong.event.id} is claimed")
        if "conflict" in answers:
            raise Rejected(
                409,
                "The id is taken",
                f"Event {wrong.event.id} was posted before with another content; nothing was published.",
                [("id", "an event keeps its content; give a changed event a new id")],
            )
        raise Unavailable(f"event {wrong.event.id} is being published for another request; post it again")

    async def _acknowledged(self, item: Prepared, future: "asyncio.Future[Written] | None") -> Accepted:
        """Wait until an event is on its topic; where nothing was sent it had been before."""
        if future is None:
            return Accepted(item.event.id, "duplicate")
        try:
            written = await future
        except Permanent as error:
            await self._release([item.claim])
            raise Rejected(413, "The event is too large", f"{error}.") from None
        except Unavailable:
            await self._release([item.claim])
            raise
        # Not waited for: the event is on the topic. A copy that comes here now is looked at after this; one that comes
        # to another process finds this done, or its claim pending.
        self._writer.later(lambda db: claims.publish(db, item.claim))
        if item.span is not None:
            item.span.end()
        return Accepted(item.event.id, "published", self._flow.to.name, written.partition, written.offset)

    async def _release(self, ours: Sequence[bytes]) -> None:
        await self._writer.write(lambda db: claims.release(db, ours, self._owner))

    def _count(self, what: What, count: int = 1, detail: str = "") -> None:
        self._observe(Observed(what, self.name, count=count, detail=detail))


class Contained:
    """Makes what a source raises an Exception: whatever else, an exit too, would end the worker for whoever posts.

    A generator with `contextmanager` would cost every POST a twentieth of its time.
    """

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """Let an Exception pass."""
        if error is not None and not isinstance(error, Exception):
            pass_on(error)
            raise RuntimeError(f"bug in the source: {type(error).__name__}: {error}") from error


CONTAINED = Contained()
