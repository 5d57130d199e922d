"""What a topic deletes before it was read, and how near that is (L6)."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

Slot = TypeVar("Slot", bound=tuple[str, int])
"""Topic and partition."""

ALARMING = 0.5
"""The share of its retention that a flow may leave unread before a person has to know."""


@dataclass(frozen=True, slots=True)
class Unread:
    """How a flow stands to the retention of its topic."""

    expired: int = 0
    """Offsets deleted before the flow read them; where transactions ended some of them were no records."""
    share: float = 0.0
    """Age of the oldest record that it has not finished, as a share of the time for which the topic keeps records."""


def unread(
    committed: Mapping[Slot, int],
    low: Mapping[Slot, int],
    high: Mapping[Slot, int],
    oldest: Mapping[Slot, datetime],
    keep: timedelta | None,
    now: datetime,
) -> Unread:
    """Say how a flow stands to the retention of its topic.

    `low` and `high` are the first offset of each partition and the one after its last, `oldest` is when the first
    record at or after the committed offset was written, `keep` how long the topic keeps records; None for ever.
    """
    expired = sum(max(0, low[slot] - offset) for slot, offset in committed.items() if slot in low)
    waiting = [at for slot, at in oldest.items() if committed.get(slot, low[slot]) < high[slot]]
    if keep is None or not waiting:
        return Unread(expired)
    return Unread(expired, max(timedelta(), now - min(waiting)) / keep)


def remembered(
    committed: Mapping[Slot, int], reached: Mapping[tuple[str, int], int], low: Mapping[Slot, int]
) -> dict[Slot, int]:
    """Add to committed offsets, where there are none, those that the ledger has reached and the topic has deleted.

    Kafka forgets the offsets of a group that has no member for a week; without these nobody would know of a loss.
    """
    lost = {slot: reached[slot] for slot in low if slot not in committed and reached.get(slot, low[slot]) < low[slot]}
    return {**committed, **lost}


def kept_for(settings: Mapping[str, str]) -> timedelta | None:
    """Read from a topic's settings how long it keeps records; None for ever."""
    milliseconds = int(settings.get("retention.ms", "-1"))
    if milliseconds <= 0 or "delete" not in settings.get("cleanup.policy", "delete"):
        return None
    try:
        return timedelta(milliseconds=milliseconds)
    except OverflowError:
        return None
