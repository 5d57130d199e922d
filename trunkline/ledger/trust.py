"""Whether a ledger may be trusted: it is the one that the bus knows, and not behind what its workers committed (L3).

The bus knows its ledger by the control topic. A ledger that is lost, another one, or an older copy would let events be
delivered twice, so each of them is a Halt until a person has said what to do.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import TypeVar

from trunkline.errors import Halt
from trunkline.ledger.database import Connection
from trunkline.ledger.identity import Identity

Slot = TypeVar("Slot", bound=tuple[str, int])
"""Topic and partition."""

REBUILD = "trunkline ledger rebuild"
ELSEWHERE = "Set TRUNKLINE_LEDGER__PATH or TRUNKLINE_LEDGER__URL to where it is"


@dataclass(frozen=True, slots=True)
class Fine:
    """It is the bus's own and up to date."""


@dataclass(frozen=True, slots=True)
class Create:
    """The bus knows no ledger yet and has delivered nothing: take this one, and let the control topic name it."""


def state_of_ledger(
    here: Identity | None,
    known: tuple[str, int] | None,
    progress: Mapping[tuple[str, int], int],
    committed: Mapping[Slot, int],
) -> Fine | Create | Halt:
    """Say whether one flow may go on with a ledger.

    `here` is the ledger's identity, `known` the id and epoch that the control topic names, `progress` what the ledger
    knows of the flow's sink, and `committed` the offsets that workers have committed for the flow: not those where a
    person has let it begin, for which no ledger was needed.
    """
    behind = sorted(slot for slot, offset in committed.items() if progress.get(slot, -1) < offset)
    if known is not None and here is None:
        said = f"the ledger is empty, but this bus has one: {told(known)}. {ELSEWHERE}; if it is lost, run `{REBUILD}`."
        return Halt(said, run=REBUILD)
    if known is not None and here != Identity(*known):
        assert here is not None
        return Halt(
            f"this ledger, {told((here.id, here.epoch))}, is not the one of this bus, {told(known)}. {ELSEWHERE}; if "
            f"it is lost, to an empty one, and run `{REBUILD}`.",
            run=REBUILD,
        )
    if behind:
        topic, partition = behind[0]
        if not progress:
            return Halt(
                f"the ledger knows nothing of this sink, and its flow has committed {committed[behind[0]]} of {topic} "
                f'partition {partition}. If the sink had another name, say so in its class, was = "…"; if '
                f"the ledger is a restored copy, run `{REBUILD}`.",
                run=REBUILD,
            )
        knows = progress.get(behind[0], "nothing")
        return Halt(
            f"the ledger is older than what was delivered: of {topic} partition {partition} it knows {knows}, and "
            f"{committed[behind[0]]} was committed. If it is a restored copy, run `{REBUILD}`.",
            run=REBUILD,
        )
    return Fine() if known is not None else Create()


def worked(committed: Mapping[Slot, tuple[int, str]]) -> dict[Slot, int]:
    """Give the offsets that workers have committed, of all with the note that is kept beside each.

    A worker notes the time; who only says where a flow begins does not.
    """
    return {slot: offset for slot, (offset, note) in committed.items() if note}


def told(identity: tuple[str, int]) -> str:
    """Name a ledger."""
    return f"{identity[0][:8]} epoch {identity[1]}"


def distrust(db: Connection, now: datetime) -> None:
    """Take the identity away, so that no worker uses the ledger until it is trusted again; inside a transaction.

    Calls that nobody makes any more are forgotten, and replays that nobody watches any more are over.
    """
    db.run("DELETE FROM identity")
    db.run(
        "UPDATE deliveries SET state = before, owner = NULL, deadline = NULL, before = NULL "
        "WHERE state = 3 AND before IS NOT NULL"
    )
    db.run("DELETE FROM deliveries WHERE state = 3")
    db.run("UPDATE runs SET finished = ? WHERE finished IS NULL", now.isoformat())


def trust(db: Connection, identity: Identity) -> None:
    """Give a distrusted ledger an identity: from now on workers use it."""
    db.run("INSERT INTO identity VALUES (1, ?, ?)", identity.id, identity.epoch)


def oldest_day(db: Connection) -> date | None:
    """Give the first day of which the ledger has deliveries; None when there are none."""
    [(day,)] = db.run("SELECT min(day) FROM days")
    return None if day is None else date(1970, 1, 1) + timedelta(days=day)
