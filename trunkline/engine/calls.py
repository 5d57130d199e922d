"""Makes the calls of one flow: sink.request → target.send → sink.verdict, as the sink's kind wants it."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any

from trunkline.adapters import Item, judged
from trunkline.engine import calling, spans
from trunkline.engine.composer import Composer
from trunkline.engine.delivery import Delivery
from trunkline.engine.targets import Begun, Gate, Targets
from trunkline.errors import Permanent, Retryable, Unavailable, Unknown
from trunkline.event import Event, batch_key, idempotency_key
from trunkline.flow.declare import Bus, Deliver, flow_name, sink_identity
from trunkline.flow.values import is_kits
from trunkline.http import transport
from trunkline.ledger.attempts import Attempt
from trunkline.observe import What
from trunkline.redact import hashed
from trunkline.sinks.http import Deletes, HttpSink, Written
from trunkline.verdict import Delivered, Verdict, checked

LATE = 2.0
"""Seconds beyond the deadline of a call after which a hand-written sink has not let itself be cancelled."""
REMIND = 10.0
"""Seconds between two times that this is said."""
CATCHES = "it catches asyncio.CancelledError (or BaseException), and must raise it again; the event's key waits for it"

Way = Callable[[Begun, Sequence[Delivery]], Awaitable[Sequence[Verdict | None]]]
"""Makes one call of what may be called; no verdict where none could be made now."""


class Calls:
    """Makes calls, and says of each how it went."""

    def __init__(
        self,
        bus: Bus,
        flow: Deliver,
        *,
        targets: Targets,
        gate: Gate,
        composer: Composer | None,
        may_call: Callable[[Delivery], bool],
        told: Callable[[Delivery, str], str],
        failed: Callable[[Attempt], None],
        see: Callable[..., None],
        moments: Collection[What],
    ) -> None:
        """Prepare.

        `composer` makes the calls of a composite sink, `may_call` says whether another may begin. `told` takes out of
        a verdict's words what nobody may read, `failed` keeps an attempt that did not deliver. `see` says what is
        seen; of what happens at every call, only what is among `moments`.
        """
        self._bus = bus
        self._flow = flow_name(flow)
        self._sink = sink = flow.to
        self._known_as = sink_identity(sink)
        self._targets = targets
        self._gate = gate
        self._may_call = may_call
        self._told = told
        self._failed = failed
        self._see = see
        self._moments = moments
        self._deletes = sink.delete if isinstance(sink, Deletes) else None
        self._took: dict[int | None, list[float]] = {}
        """Seconds that each call took which delivered, by status, since they were told last."""
        way: Way = self._send
        if composer is not None:
            way = partial(self._compose, composer)
        elif isinstance(sink, Written) and isinstance(sink, HttpSink):
            way = partial(self._hand_over, sink, sink)
        elif sink.together > 1 or not is_kits(sink.batch):
            way = self._send_together
        self.attempt: Way = way if self._deletes is None else partial(self._delete_or, way)

    def tell(self) -> None:
        """Say of the calls that delivered how long they took, all together."""
        took, self._took = self._took, {}
        for status, seconds in took.items():
            self._see("attempt", count=len(seconds), status=status, took=seconds, target=self._sink.target.name)

    async def _delete_or(self, way: Way, call: Begun, ready: Sequence[Delivery]) -> Sequence[Verdict | None]:
        """Make the one request of an event without a value, or whatever the sink's kind wants."""
        return await (self._send if ready[0].record.value is None else way)(call, ready)

    async def _send(self, call: Begun, ready: Sequence[Delivery]) -> list[Verdict | None]:
        """Make the one request of an event."""
        [delivery] = ready
        event = delivery.event
        began = 0.0
        response = None
        verdict: Verdict
        sink = self._sink
        span = None
        try:
            if delivery.record.value is None and self._deletes is not None:
                request = self._deletes(event)
            else:
                request = sink.request(event)
            span = spans.calling(sink.name, self._flow, sink.target.name, [event], replayed=bool(delivery.run))
            began = time.monotonic()
            if "calling" in self._moments:
                self._see("calling", delivery)
            response = await self._targets.send(
                sink.target, request, delivery.call_key, sink.idempotency, again=delivery.unanswered
            )
            verdict = checked(sink.verdict(response))
        except Unavailable as error:
            spans.ended(span, None, [])
            self._take_back(call, [delivery], error)
            return [None]
        except BaseException as error:  # noqa: BLE001 - whatever an adapter or a call raises has a verdict
            verdict = calling.verdict_of(error)
        if began:
            self._targets.ended(self._gate, call, verdict, response)
        else:
            self._targets.unmade(self._gate, call)
        status = None if response is None else response.status
        delivery.unanswered = began > 0 and response is None
        spans.ended(span, status, [verdict])
        seconds = time.monotonic() - began
        if isinstance(verdict, Delivered):
            self._took.setdefault(status, []).append(seconds)
        elif began:
            self._say_failed(delivery, verdict, status, seconds)
        return [verdict]

    async def _compose(self, composer: Composer, call: Begun, ready: Sequence[Delivery]) -> list[Verdict]:
        """Make as many of a composite's calls as can be made now."""
        [delivery] = ready
        self._targets.unmade(self._gate, call)  # each of its calls is begun by itself
        began = time.monotonic()
        verdict = await composer.attempt(
            delivery, lambda: self._may_call(delivery), lambda words: self._told(delivery, words)
        )
        if not isinstance(verdict, Delivered):
            self._keep(delivery, verdict, None, time.monotonic() - began)
        return [verdict]

    async def _hand_over(
        self, sink: HttpSink, deliver: Written, begun: Begun, ready: Sequence[Delivery]
    ) -> list[Verdict | None]:
        """Let a hand-written sink make its calls."""
        [delivery] = ready
        event = delivery.event
        call = calling.Calling(
            self._targets.client(sink.target),
            partial(idempotency_key, self._bus.identity, self._known_as, event.source, event.id),
        )
        target = sink.target.name
        span = spans.calling(sink.name, self._flow, target, [event], replayed=bool(delivery.run))
        began = time.monotonic()
        if "calling" in self._moments:
            self._see("calling", delivery, target=target)
        try:
            with self._late(delivery):
                verdict, response = await calling.attempt(sink, deliver, event, call)
        except Unavailable as error:
            spans.ended(span, None, [])
            self._take_back(begun, [delivery], error)
            return [None]
        status = None if response is None else response.status
        self._targets.ended(self._gate, begun, verdict, response)
        spans.ended(span, status, [verdict])
        seconds = time.monotonic() - began
        if isinstance(verdict, Delivered):
            self._took.setdefault(status, []).append(seconds)
        else:
            self._say_failed(delivery, verdict, status, seconds)
        return [verdict]

    @contextmanager
    def _late(self, delivery: Delivery) -> Iterator[None]:
        """Say again and again of a sink that does not end with its time: nobody can end it but with the process."""
        loop = asyncio.get_running_loop()
        timer: asyncio.TimerHandle

        def say_in(seconds: float) -> None:
            nonlocal timer
            timer = loop.call_later(seconds, say)

        def say() -> None:
            say_in(REMIND)
            self._see("stuck", delivery, detail=f"{self._sink.name} goes on though its time is over: {CATCHES}")

        say_in(transport.DEADLINE + LATE)
        try:
            yield
        finally:
            timer.cancel()

    async def _send_together(self, call: Begun, group: Sequence[Delivery]) -> Sequence[Verdict | None]:
        """Make one request of several events, at most one of a key (D10): sink.batch → target.send → sink.verdicts.

        Empty, when sink or target have refused several as a whole, so that none had its effect. Verdicts on an answer
        that says yes, or a bug in them, are no such refusal: the target may have applied what it was sent.
        """
        sent: Sequence[Event[Any]] = ()
        response = None
        sink = self._sink
        taken = sink.idempotency
        keys = [one.call_key if taken is None else taken.cut(one.call_key) for one in group]
        items = [Item(delivery.event, key) for delivery, key in zip(group, keys, strict=True)]
        began = time.monotonic()
        verdicts: Sequence[Verdict]
        span = None
        try:
            request = sink.batch(items)
            replayed = any(delivery.run for delivery in group)
            sent = [delivery.event for delivery in group]
            span = spans.calling(sink.name, self._flow, sink.target.name, sent, replayed=replayed)
            for delivery in group if "calling" in self._moments else ():
                self._see("calling", delivery)
            again = any(delivery.unanswered for delivery in group)
            response = await self._targets.send(sink.target, request, batch_key(keys), sink.idempotency, again=again)
            verdicts = judged(sink, response, items)
        except Unavailable as error:
            spans.ended(span, None, [])
            self._take_back(call, group, error)
            return [None] * len(group)
        except BaseException as error:  # noqa: BLE001 - whatever an adapter or a call raises has a verdict
            verdicts = [calling.verdict_of(error)] * len(group)
        if sent:
            self._targets.ended(self._gate, call, worst(verdicts), response)
        else:
            self._targets.unmade(self._gate, call)
        status = None if response is None else response.status
        spans.ended(span, status, verdicts)
        seconds = time.monotonic() - began
        for delivery, verdict in zip(group, verdicts, strict=True):
            delivery.unanswered = bool(sent) and response is None
            if isinstance(verdict, Delivered):
                self._took.setdefault(status, []).append(seconds)
            else:
                self._say_failed(delivery, verdict, status, seconds)
        refused = all(isinstance(verdict, Permanent) for verdict in verdicts) and (status is None or status >= 400)
        return [] if refused and len(group) > 1 else verdicts

    def _take_back(self, call: Begun, group: Sequence[Delivery], error: Unavailable) -> None:
        """Take a call back for which there are no credentials now."""
        self._targets.unmade(self._gate, call)
        for delivery in group:
            self._see("attempt", delivery, target=self._sink.target.name, detail=f"not sent: {error}")

    def _say_failed(self, delivery: Delivery, verdict: Verdict, status: int | None, seconds: float) -> None:
        """Say that a call failed, and keep it for whoever asks what happened to the event."""
        self._see(
            "attempt",
            delivery,
            status=status,
            seconds=seconds,
            detail=self._keep(delivery, verdict, status, seconds),
            attempt=delivery.attempts,
            lane=hashed(delivery.record.key),
            target=self._sink.target.name,
            outcome=type(verdict).__name__.lower(),
        )

    def _keep(self, delivery: Delivery, verdict: Verdict, status: int | None, seconds: float) -> str:
        """Keep an attempt and give its words."""
        words = self._told(delivery, str(verdict))
        self._failed(Attempt(delivery.place, datetime.now(UTC), status, seconds, words))
        return words


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """Give the verdict of a call for many events that says most of its target."""
    return next((verdict for verdict in verdicts if isinstance(verdict, Retryable | Unknown)), verdicts[0])
