"""The contracts between the bus and the code that people write: what each side promises.

Source:  WebhookRequest ──events──▶ [Event]          pure; raises Rejected for the sender's mistakes
Sink:    [Item] ──batch──▶ Request                   pure; raises Permanent when the event cannot be expressed
         Response, [Item] ──verdicts──▶ [Verdict]    pure
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar

from trunkline.errors import Permanent
from trunkline.event import Event
from trunkline.requests import Idempotency, Request
from trunkline.responses import Response
from trunkline.verdict import Verdict, checked, of_exception
from trunkline.webhooks import WebhookRequest

D = TypeVar("D", bound=Mapping[str, Any])


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


@dataclass(frozen=True)  # with slots, Python 3.11 cannot call Item[X](…)
class Item(Generic[D]):
    """One event of a call, and its idempotency key, which is "" where the target knows none."""

    event: Event[D]
    key: str


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

    @property
    def speaks(self) -> str:
        """The version of the target's API that it is written for, as the target writes it; "" when it does not say."""
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
        verdicts = [checked(verdict) for verdict in sink.verdicts(response, items)]
    except BaseException as error:  # noqa: BLE001 - whatever an adapter raises has a verdict
        return [of_exception(error)] * len(items)
    if len(verdicts) != len(items):
        return [Permanent(f"bug in the adapter: {len(verdicts)} verdicts for {len(items)} events")] * len(items)
    return verdicts
