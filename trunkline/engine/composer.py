"""What the attempts at a flow's composite deliveries are made with: ledger, targets and the topic of results."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from trunkline.adapters import Item, judged
from trunkline.engine import spans
from trunkline.engine.composite import Attempt
from trunkline.engine.delivery import Delivery
from trunkline.engine.targets import Targets
from trunkline.errors import Retryable, Unavailable, Unknown
from trunkline.event import idempotency_key, to_headers, to_parent
from trunkline.flow.composite import Begin, Change, Course, Outcome, call_of, result_of, undoes
from trunkline.flow.declare import Bus, Deliver, flow_name, sink_identity
from trunkline.http import transport
from trunkline.kafka.events import Sender
from trunkline.kafka.registry import Format
from trunkline.ledger import calls
from trunkline.ledger.writer import Writer
from trunkline.observe import Observed, Observer, What
from trunkline.requests import Request
from trunkline.responses import Response
from trunkline.sinks.composite import CompositeSink
from trunkline.verdict import Verdict, of_exception


@dataclass(frozen=True)
class Composer:
    """Makes the composite deliveries of one flow; `forms` has the form of the topic of results, where there is one."""

    bus: Bus
    flow: Deliver
    sink: CompositeSink
    forms: Mapping[str, Format]
    targets: Targets
    sender: Sender
    writer: Writer
    observe: Observer

    async def attempt(self, delivery: Delivery, may_begin: Callable[[], bool], told: Callable[[str], str]) -> Verdict:
        """Make one attempt; `may_begin` says whether calls may still begin, `told` takes secrets out of words."""
        desk = Desk(self, delivery, may_begin, told)
        try:
            attempt = Attempt(self.sink, delivery.event, desk, seconds=transport.DEADLINE)
            return await attempt.run(delivery.run if delivery.live else "")
        except Unavailable as error:
            return Retryable(str(error))
        except BaseException as error:  # noqa: BLE001 - whatever an adapter raises has a verdict
            return of_exception(error)


@dataclass(frozen=True)
class Desk:
    """What one attempt at one delivery is made with, as `composite.Desk` promises."""

    composer: Composer
    delivery: Delivery
    may_begin: Callable[[], bool]
    told: Callable[[str], str]

    async def note(self, change: Change) -> Course:
        """Make a change durable and give what stands after it."""
        course = await self.composer.writer.write(lambda db: calls.change(db, self.delivery.place, change))
        self._see("prepared" if isinstance(change, Begin) else "recorded")
        return course

    async def send(self, step: str, key: str, request: Request, *, again: bool) -> Response:
        """Make the call of a step."""
        composer, event = self.composer, self.delivery.event
        sink = composer.sink
        name = idempotency_key(composer.bus.identity, sink_identity(sink), event.source, event.id, key)
        target = sink.target_of(call_of(step))
        flow = flow_name(composer.flow)
        span = spans.calling(sink.name, flow, target.name, [event], replayed=bool(self.delivery.run))
        began = time.monotonic()
        status = None
        verdict: Verdict = Unknown("cancelled")
        self._see("calling", target=target.name)
        try:
            response = await composer.targets.call(
                flow, target, request, name, sink.idempotency, again=again, counted=not undoes(step)
            )
            status, [verdict] = response.status, judged(sink, response, [Item(event, name)])
        except Exception as error:
            verdict = of_exception(error)
            raise
        finally:
            outcome = type(verdict).__name__.lower()
            seconds = time.monotonic() - began
            self._see("attempt", target=target.name, status=status, seconds=seconds, outcome=outcome, detail=step)
            spans.ended(span, status, [verdict])
        self._see("answered")
        return response

    async def publish(self, round_: int, outcome: Outcome) -> None:
        """Publish the result, acknowledged, always under the same id."""
        composer, origin = self.composer, self.delivery.origin
        topic = composer.sink.results
        if topic is None:
            return
        event = result_of(composer.bus, composer.flow, topic, self.delivery.event, round_, outcome)
        await asyncio.wrap_future(
            composer.sender.send(
                topic.name,
                None if event.key is None else event.key.encode(),
                composer.forms[topic.name].encode(event.data),
                (*to_headers(event), to_parent(self.delivery.event, origin.partition, origin.offset)),
            )
        )
        self._see("produced")

    def _see(self, what: What, **more: Any) -> None:
        composer = self.composer
        name = flow_name(composer.flow)
        composer.observe(Observed(what, name, sink=composer.sink.name, event=self.delivery.event.id, **more))
