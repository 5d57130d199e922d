"""A source that posts its events to the gateway."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from trunkline.adapters import Verifier
from trunkline.event import Event
from trunkline.webhooks import WebhookRequest


class Webhook(ABC):
    """An upstream system that posts to `/in/<name>`: say how it proves itself, and what its requests mean."""

    name: ClassVar[str]
    origins: ClassVar[Sequence[str]] = ()
    """Senders that may ask whether events are wanted here, by the name that they give themselves when they ask: the
    handshake of CloudEvents' "HTTP 1.1 Web Hooks for Event Delivery" §4.
    """

    def __init__(self, verify: Verifier) -> None:
        self.verify = verify

    @abstractmethod
    def events(self, request: WebhookRequest) -> Sequence[Event[Any]]:
        """Give the events of one verified request: the provider's own id, when it happened (aware), and the data.

        Raises:
            Rejected: the request is wrong; `request.json(Shape)` raises it with every wrong field named.
        """
