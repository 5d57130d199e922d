"""What a replay has sent to a flow of steps or to an agent, and what the audit trail says became of it.

The ledger knows deliveries alone. For these flows a topic says what is finished: an entry is written with what was made
of the event, in the same transaction where there is one (docs/decisions/0026).
"""

from datetime import UTC, datetime
from typing import Any, NamedTuple, get_args

from trunkline import deadletter
from trunkline.avro.codec import HEAD
from trunkline.deadletter import REPLAY_COUNT, Failure, Kind, Origin
from trunkline.errors import Poison, TrunklineError
from trunkline.event import Event
from trunkline.kafka.audit import Entry
from trunkline.kafka.events import Record
from trunkline.ledger import deliveries
from trunkline.ledger.deliveries import State


class Again(NamedTuple):
    """Where an event that a replay sent first stood, the run that sent it, and how many replays it has been through."""

    origin: Origin
    run: str
    replays: int

    @property
    def stood(self) -> tuple[int, int]:
        """Partition and offset of its first place."""
        return self.origin.partition, self.origin.offset


def again(record: Record) -> Again | None:
    """Read what a replay has written on a record of the flow's replay topic; None when none has."""
    origin, run = deadletter.sent_again(record.headers, Origin(*record.slot, record.offset))
    try:
        return Again(origin, run, int(dict(record.headers).get(REPLAY_COUNT) or 0)) if run else None
    except ValueError:
        return None


def origin_of(record: Record, sent: Again | None) -> Origin:
    """Give where the event of a record first stood: there, unless a replay has sent it."""
    return Origin(*record.slot, record.offset) if sent is None else sent.origin


def failure_of(flow: str, error: TrunklineError, message: str) -> Failure:
    """Say why steps or an agent could not take an event; `message` are the error's words without secrets."""
    poison = isinstance(error, Poison)
    return Failure(
        flow=flow,
        kind="poison" if poison else "permanent",
        stage="decode" if poison else "process",
        error=type(error).__name__,
        message=message,
        attempts=1,
        status=None,
        at=datetime.now(UTC),
    )


def ended(flow: str, record: Record, sent: Again, event: Event[Any], how: str) -> Entry:
    """Say how an event that a replay sent has ended; `how` is a class of dead letters, else what came out."""
    dead = how in get_args(Kind)
    return Entry(
        at=datetime.now(UTC),
        flow=flow,
        sink="",
        source=event.source,
        event=event.id,
        time=event.time,
        origin=sent.origin,
        key=None if record.key is None else deliveries.key_of(record.key).hex(),
        payload=deliveries.payload_of((record.value or b"")[HEAD:]).hex(),
        state=(State.DEAD if dead else State.DONE).name,
        attempts=1,
        run=sent.run,
        kind=how,
    )
