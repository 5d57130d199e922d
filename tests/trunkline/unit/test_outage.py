"""Ten minutes without a target, on a clock of the test's own: dispatcher and breaker together."""

import heapq
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from random import Random

import pytest

from tests.trunkline.unit.making import MAIN, REPLAY, delivery
from trunkline import Target, env
from trunkline.engine.delivery import Delivery
from trunkline.engine.dispatch import Call, Dispatcher, Later, Letter, Policy, Record
from trunkline.engine.targets import Access, Gate
from trunkline.errors import Retryable, Unknown
from trunkline.responses import Response
from trunkline.verdict import Delivered, Retry, Verdict

WALL = datetime(2026, 1, 1, tzinfo=UTC)
PATIENCE = Retry(give_up_after=timedelta(seconds=60), longest=timedelta(seconds=20))
BEGIN, END = 100.0, 700.0
"""From when to when the target is down."""


class Outage:
    """Delivers events whose target is away for ten minutes; every call takes a tenth of a second."""

    def __init__(self, verdict: Verdict, response: Response | None) -> None:
        self.now = 1.0
        self.core = Dispatcher(Policy(retry=PATIENCE, replay=REPLAY.topic, sink="crm"))
        self.core.renew(1e9)
        self.core.assign([MAIN], ())
        target = Target("crm", env("CRM_URL"))
        self.access = Access(target)
        self.gate = Gate(self.access, target, 1.0)
        self.failing = verdict, response
        self.bad = ""
        """The event that fails always."""
        self.random = Random(7)  # noqa: S311 - so that it can be repeated
        self.calls: list[float] = []
        self.ended: Counter[str] = Counter()
        self._next = count()
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []

    def later(self, seconds: float, step: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (self.now + seconds, next(self._next), step))

    def run(self, until: float) -> None:
        """Let time pass."""
        while self._agenda and self._agenda[0][0] <= until:
            self.now, _, step = heapq.heappop(self._agenda)
            step()
            self.act()
        self.now = until

    def act(self) -> None:
        """Do what `deliver.py` does."""
        room = self.gate.room(self.now)
        self.core.stood = self.access.stood(self.now)
        self.core.turn(self.now, room)
        for effect in self.core.take():
            match effect:
                case Call([one]):
                    self.call(one)
                case Later(one, seconds):
                    self.later(seconds, partial(self.core.due, one))
                case Record(one, state):
                    self.ended[state.name] += 1
                    self.core.recorded(one, ())
                    self.later(0.0, lambda: None)
                case Letter(one):
                    self.core.buried(one)
                case _:
                    raise AssertionError(effect)
        if room <= 0:
            self.later(max(0.01, self.gate.wait(self.now)), lambda: None)

    def call(self, one: Delivery) -> None:
        assert self.core.begin(one, self.now)
        self.calls.append(self.now)
        call, down = self.gate.begin(self.now), BEGIN <= self.now < END or one.event.id == self.bad

        def answer() -> None:
            verdict, response = self.failing if down else (Delivered(200), Response(200))
            self.access.ended(call, verdict, response, self.now, lambda: WALL)
            self.core.stood = self.access.stood(self.now)
            suspected = self.access.is_down(one.began)
            self.core.answered(one, verdict, self.now, self.random.random, down=suspected)

        self.later(0.1, answer)


@pytest.mark.parametrize(
    ("verdict", "response"),
    [
        (Retryable("no connection"), None),
        (Unknown("no answer"), None),
        (Retryable("answered 503", status=503), Response(503)),
        (Retryable("answered 503", status=503, after=7.0), Response(503, {"retry-after": "7"})),
        (Retryable("answered 429", status=429), Response(429)),
        (Retryable("answered 429", status=429, after=1e9), Response(429, {"retry-after": "1000000000"})),
    ],
)
def test_ten_minutes_without_a_target_kill_no_event(verdict: Verdict, response: Response | None) -> None:
    outage = Outage(verdict, response)
    number = count()

    def arrive() -> None:
        batch = [delivery(f"k{key}", next(number)) for key in range(4)]
        outage.core.arrive(outage.core.looking(), batch, {}, ())

    for second in range(690):
        outage.later(float(second), arrive)
    outage.run(END)
    during = sum(at >= BEGIN + 10 for at in outage.calls)
    assert outage.ended["DEAD"] == 0
    assert during <= 60, "a trial now and then, and no more"
    outage.run(END + 3_700)
    assert outage.ended == {"DONE": 690 * 4}
    assert outage.access.closed


@pytest.mark.parametrize("verdict", [Retryable("answered 503", status=503), Unknown("no answer")])
def test_where_little_comes_the_outage_kills_no_event_before_the_breaker_knows_of_it(verdict: Verdict) -> None:
    outage = Outage(verdict, None)
    outage.core = Dispatcher(Policy(retry=Retry(timedelta(seconds=20)), replay=REPLAY.topic, sink="crm"))
    outage.core.renew(1e9)
    outage.core.assign([MAIN], ())
    number = count()

    def arrive() -> None:
        outage.core.arrive(outage.core.looking(), [delivery("k", next(number))], {}, ())

    for second in (1, 50, 101, 400, 690):
        outage.later(float(second), arrive)
    outage.run(END)
    assert outage.ended == {"DONE": 2}
    assert 10 <= len(outage.calls) < 40
    outage.run(END + 200)
    assert outage.ended == {"DONE": 5}


def test_an_event_that_alone_fails_is_given_up_all_the_same() -> None:
    outage = Outage(Retryable("answered 503", status=503), Response(503))
    outage.bad = "e0"
    outage.core.arrive(outage.core.looking(), [delivery("bad", 0)], {}, ())
    number = count(1)

    def arrive() -> None:
        outage.core.arrive(outage.core.looking(), [delivery("good", next(number))], {}, ())

    for second in range(95):
        outage.later(float(second), arrive)
    outage.run(99.0)
    assert outage.ended == {"DONE": 95, "DEAD": 1}
