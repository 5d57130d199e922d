"""When the transactions of a process flow begin. Sans-I/O: clocks are arguments, in seconds."""

REST = 0.005
"""Seconds after a transaction in which its marks are still written: one that begins before is refused by the broker,
and librdkafka tries again after 20 ms, whatever its settings say."""
OUTDATED = 10
"""How often in a row a transaction is tried again because the group has changed."""
FIRST = 0.004
"""Seconds until it is tried again for the first time; each time twice as long."""


class Cadence:
    """Of one session: one transaction at a time."""

    def __init__(self) -> None:
        """Begin with a transaction that may begin at any time."""
        self._next = 0.0
        self._rested = 0.0
        self._outdated = 0

    def is_due(self, now: float, *, full: bool, more: bool) -> bool:
        """Say whether a transaction may begin, while none is under way.

        A full batch waits for nothing: gathering it took longer than a rest. Else there is time until the marks of the
        last transaction are written, and `more` says that there is something to gather meanwhile.
        """
        return now >= self._next and (full or (now >= self._rested and not more))

    def wait(self, now: float) -> float:
        """Give the seconds until a transaction may begin that is not full."""
        return max(0.0, self._rested - now, self._next - now)

    def ended(self, now: float) -> None:
        """Take note that a transaction has been committed."""
        self._outdated = 0
        self._rested = now + REST

    def outdated(self, now: float) -> bool:
        """Take note that one failed because the group has changed; say whether it is to be tried again."""
        self._outdated += 1
        self._next = now + FIRST * 2 ** (self._outdated - 1)
        return self._outdated <= OUTDATED
