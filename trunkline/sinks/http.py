"""A sink for one HTTP API: one request per event, or per batch of events."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal

from trunkline.adapters import Idempotency, Item, Request, Response
from trunkline.event import Event
from trunkline.flow.declare import Target
from trunkline.verdict import Verdict, judge


class HttpSink:
    """A target API: say what to send. The bus adds address, credentials, idempotency key, limit, retries and ledger.

    Every request carries `Idempotency-Key: <32 characters>`, the same for every attempt, worker, restart and replay.
    Say `idempotency = Idempotency(header=…)` where the target names it otherwise, and `idempotency = None` where it
    knows no such keys: then an event whose outcome is unknown is not sent again, but becomes a dead letter. Say
    `writes = "latest"` where the target stores the last state of a key, so that an older event is superseded. After a
    rename, `was` keeps the former name: keys and ledger rows go on under it.

    A bulk API takes up to `together` events in one call: write `batch` instead of `request`, and `verdicts` where it
    answers for each event apart. An item's key goes into the body where the API takes one for each
    (`Idempotency(header=None)`); else the one in the header is made of all of them.
    """

    name: ClassVar[str]
    was: ClassVar[str] = ""
    idempotency: ClassVar[Idempotency | None] = Idempotency()
    writes: ClassVar[Literal["each", "latest"]] = "each"
    together: ClassVar[int] = 1

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
