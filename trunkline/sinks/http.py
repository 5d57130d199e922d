"""A sink for one HTTP API: one request per event."""

from abc import ABC, abstractmethod
from datetime import UTC, datetime
from typing import Any, ClassVar

from trunkline.adapters import Request, Response
from trunkline.event import Event
from trunkline.flow.declare import Target
from trunkline.verdict import Verdict, judge


class HttpSink(ABC):
    """A target API: say what to send. The bus adds address, credentials, idempotency key, limit, retries and ledger.

    Every request carries `Idempotency-Key: <32 characters>`, the same for every attempt, worker, restart and replay.
    """

    name: ClassVar[str]

    def __init__(self, target: Target) -> None:
        self.target = target

    @abstractmethod
    def request(self, event: Event[Any]) -> Request:
        """Say what to send for one event. Pure: it is called again for every attempt.

        Raises:
            Permanent: the event cannot be expressed; it becomes a dead letter of this sink.
        """

    def verdict(self, response: Response) -> Verdict:
        """Say what an answer means; override it where a target is odd."""
        return judge(response.status, response.headers, response.body, now=datetime.now(UTC))
