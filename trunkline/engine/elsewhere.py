"""What is unknown here and may be known to a worker of another topology, while a fleet is mixed (L5)."""

import threading
from collections.abc import Callable

from trunkline.engine.watchdog import Heart
from trunkline.errors import UnknownSchema
from trunkline.kafka.events import clock
from trunkline.kafka.orders import Fleet
from trunkline.kafka.registry import Format

ASKING = 2.0
"""Seconds in which the fleet must have answered, else the flow is left to others."""


class Elsewhere:
    """Asks the fleet for one flow, in its thread."""

    def __init__(self, fleet: Fleet, heart: Heart, stopping: threading.Event) -> None:
        self._fleet = fleet
        self._heart = heart
        self._stopping = stopping

    def may_know(self, fetched: float) -> bool:
        """Say whether another worker may know what this one does not, of a record fetched by then."""
        until = clock() + ASKING
        while self._fleet.looked < fetched and clock() < until and not self._stopping.is_set():
            self._fleet.asked.set()
            self._heart.beat()
            self._stopping.wait(0.02)
        return self._fleet.uniform < fetched

    def leave_to_others(self) -> None:
        """Wait, as no member of the group, until all workers run one topology: who may know what is unknown is one."""
        self._heart.rest()
        since = clock()
        while self._fleet.uniform < since and not self._stopping.wait(0.2):
            pass


def leave_newer(form: Format, value: bytes | None, fetched: float, may_know: Callable[[float], bool]) -> None:
    """Let other workers have what is of a version of its schema that ours is too old for (L5).

    `may_know` says whether one may know more of a record that was fetched by then.

    Raises:
        UnknownSchema: one may have that version.
    """
    if not form.knows(value):
        if may_know(fetched):
            raise UnknownSchema("it was written with a version of its schema that this topology has not")
        form.accept(value)
