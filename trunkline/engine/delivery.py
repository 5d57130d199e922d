"""One event on its way to one target."""

import enum
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from trunkline.deadletter import Kind, Origin
from trunkline.engine.watermark import Watermark
from trunkline.errors import Undeliverable
from trunkline.event import Event
from trunkline.kafka.events import Record
from trunkline.ledger.deliveries import Place, State

Key = Hashable
"""A lane's name: the digest of a record's key, or the place of a record without one, which waits for no other."""


class Stage(enum.Enum):
    """How far a delivery is. QUEUED and WAITING may be given up; what is busy is awaited."""

    QUEUED = "queued"
    STARTED = "started"
    """Chosen to be called, not yet begun: it waits for the target's limit."""
    PREPARING = "preparing"
    """The ledger is asked, and told that a call begins."""
    CALLING = "calling"
    WAITING = "waiting"
    BURYING = "burying"
    RECORDING = "recording"
    GONE = "gone"


BUSY = frozenset({Stage.PREPARING, Stage.CALLING, Stage.BURYING, Stage.RECORDING})

NOWHERE = Watermark()
"""Of a delivery that has not arrived."""


@dataclass(slots=True, eq=False)
class Delivery:
    """An event, where it stood, and how far its delivery is."""

    record: Record
    event: Event[Any]
    origin: Origin
    """Where the event first stood: of a replay, the place in the sink's own topic."""
    place: Place
    payload: bytes
    lane: Key
    key: bytes | None
    """The digest of the record's key; None when it has none."""
    size: int
    call_key: str = ""
    """The idempotency key of its call; empty where the sink sends none."""
    poison: Undeliverable | None = None
    newer: bool = False
    """It is of a version of its schema that our topology has not, read as far as Avro resolves it."""
    fetched: float = 0.0
    """When one that is no event, or newer, had been, by the dispatcher's clock."""
    run: str = ""
    """The replay that sent it, if one did."""
    live: bool = False
    """That replay is not over: what it sends opens a dead letter again (R2)."""
    overwrite: bool = False
    """The replay was told to bring an older state back (R2)."""
    stage: Stage = Stage.QUEUED
    attempts: int = 0
    began: float = 0.0
    owner: str = ""
    """Under which name its call is announced in the ledger; no two calls have the same."""
    unanswered: bool = False
    """Its last call ended without a status, or with a body that hid it: the next one reads with more care."""
    doubtful: bool = False
    """Another worker has announced a call of it and not told how it ended (D4)."""
    awaited: float = 0.0
    """The deadline of the last such call whose end was awaited; epoch seconds by the clock of whoever made it."""
    alone: bool = False
    """It is called without others: a call that it shared was refused as a whole (D10), or it has no value."""
    skipped: str = ""
    """The event that an order to skip named, if one was obeyed."""
    kind: Kind | None = None
    """Why it became a dead letter."""
    outcome: State | None = None
    watermark: Watermark = NOWHERE
    """Its partition's, from arrival on; another one there means that the partition has gone and come back."""
    twins: tuple["Delivery", ...] = ()
    """Copies of the same event that came while this one was under way."""

    @property
    def busy(self) -> bool:
        """Whether something has begun whose end must be awaited."""
        return self.stage in BUSY
