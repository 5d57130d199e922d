"""What a look-up remembers, and which keys it still has to ask for. Pure: the clock is an argument."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from trunkline.flow.declare import Lookup
from trunkline.flow.rows import Row

MOST = 50_000
"""Answers that are kept in each of two generations."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A row, or that there is none; `until` then it is fresh."""

    row: Row | None
    until: float


class Cache:
    """The answers to one look-up, and the keys that are being asked for: no key is asked for twice at once."""

    def __init__(self, lookup: Lookup) -> None:
        self._ttl = lookup.ttl.total_seconds()
        self._absent = lookup.absent.total_seconds()
        self._stale = lookup.stale.total_seconds()
        self._together = lookup.together
        self._young: dict[str, Answer] = {}
        self._old: dict[str, Answer] = {}
        self._due: dict[str, None] = {}
        self._flying: set[str] = set()

    def fresh(self, key: str, now: float) -> Answer | None:
        """Give the answer for a key; None when there is none that is fresh."""
        found = self._find(key)
        return found if found is not None and now < found.until else None

    def usable(self, key: str, now: float) -> Answer | None:
        """Give the answer for a key whose target fails: it may be as old as declared."""
        found = self._find(key)
        return found if found is not None and now < found.until + self._stale else None

    def want(self, keys: Iterable[str]) -> None:
        """Have these keys asked for, but for those that are already."""
        self._due.update((key, None) for key in keys if key not in self._flying)

    def take(self) -> list[str]:
        """Give the keys of the next request; none when nothing is due."""
        keys = [key for key, _ in zip(self._due, range(self._together), strict=False)]
        for key in keys:
            del self._due[key]
        self._flying.update(keys)
        return keys

    def answered(self, keys: Collection[str], rows: dict[str, Row], now: float) -> None:
        """Remember what the target had for these keys."""
        for key in keys:
            row = rows.get(key)
            if len(self._young) >= MOST:
                self._old, self._young = self._young, {}
            self._young[key] = Answer(row, now + (self._absent if row is None else self._ttl))
        self.ended(keys)

    def ended(self, keys: Collection[str]) -> None:
        """Ask for these keys no longer, until somebody wants them again."""
        self._flying.difference_update(keys)

    def _find(self, key: str) -> Answer | None:
        return self._young.get(key) or self._old.get(key)
