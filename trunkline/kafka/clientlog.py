"""What librdkafka and others say of themselves, without repetitions: a broker that is away must not fill a disk."""

import logging
import re
import time
from collections.abc import Callable

QUIET = 60.0
"""Seconds for which what has been said is not said again."""
NUMBERS = re.compile(r"\d+")
PASSING = "Coordinator load in progress: retrying"
"""What each first start on a new broker meets, and ends by itself: it is told only when it lasts."""


class Once(logging.Filter):
    """Lets the same words through once a minute, whichever client says them, with how often they came meanwhile."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._said: dict[str, tuple[float, int]] = {}
        """By words without their numbers: when they were told, and how often they came since."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether it is to be said, and add how often it was not."""
        now = self._clock()
        words = NUMBERS.sub("", record.getMessage())
        at, untold = self._said.get(words, (now if PASSING in words else now - QUIET, 0))
        if now - at < QUIET:
            self._said[words] = at, untold + 1
            return False
        self._said = {one: told for one, told in list(self._said.items()) if now - told[0] < QUIET}
        self._said[words] = now, 0
        if untold:
            record.msg, record.args = f"{record.getMessage()} ({untold} more like it since the last one)", ()
        return True


LOG = logging.getLogger("librdkafka")
LOG.addHandler(logging.NullHandler())
LOG.addFilter(Once())
