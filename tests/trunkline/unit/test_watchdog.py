"""The watchdog's judgement on made-up clocks, and that it sees a loop and a thread that stand still."""

import asyncio
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from trunkline.engine.watchdog import LONGEST_STEP, Heart, Limits, Pulse, Sign, Watchdog

LIMITS = Limits(silent=10.0, unfinished=50.0)


def looks(pulse: Pulse, begin: float, end: float, *signs: Sign) -> float | None:
    """Look every half second with the same signs and give the time of the first complaint."""
    for step in range(int((end - begin) * 2) + 1):
        if pulse.look(begin + step / 2, {str(number): sign for number, sign in enumerate(signs)}):
            return begin + step / 2
    return None


def test_what_stands_still_for_longer_than_it_may_is_named_with_both_times() -> None:
    pulse = Pulse(0.0)
    assert looks(pulse, 0.0, 10.0, Sign(7, 10.0)) is None
    assert pulse.look(10.5, {"the loop": Sign(7, 10.0)}) == []
    pulse = Pulse(0.0)
    for step in range(21):
        assert pulse.look(step / 2, {"the loop": Sign(7, 10.0)}) == []
    assert pulse.look(10.5, {"the loop": Sign(7, 10.0)}) == ["the loop: nothing for 10 s, 10 are allowed"]


def test_what_moves_is_never_named() -> None:
    pulse = Pulse(0.0)
    for step in range(1000):
        assert pulse.look(step / 2, {"the loop": Sign(step // 19, 10.0)}) == []


def test_nothing_is_counted_against_what_may_stand_still() -> None:
    pulse = Pulse(0.0)
    assert looks(pulse, 0.0, 500.0, Sign(7, None)) is None
    assert looks(pulse, 500.5, 511.0, Sign(7, 10.0)) == 510.5


def test_each_has_its_own_time() -> None:
    assert looks(Pulse(0.0), 0.0, 100.0, Sign(1, 50.0), Sign(1, 30.0)) == 30.5


def test_a_process_that_was_stopped_is_forgiven_the_gap_and_no_more() -> None:
    pulse = Pulse(0.0)
    assert looks(pulse, 0.0, 5.0, Sign(7, 10.0)) is None
    assert looks(pulse, 3_600.0, 3_600.0, Sign(7, 10.0)) is None
    # Five seconds before the gap, at most two for it, and then those that are left.
    assert looks(pulse, 3_600.5, 3_700.0, Sign(7, 10.0)) == 3_600.0 + 10.0 - 5.0 - LONGEST_STEP + 0.5


def test_a_clock_that_goes_back_gives_no_time() -> None:
    pulse = Pulse(100.0)
    assert pulse.look(50.0, {"a": Sign(1, 10.0)}) == []
    assert pulse.time == 0.0


def polls(heart: Heart) -> float | None:
    return heart.signs(LIMITS)["the thread that polls for f"].allowed


def test_a_polling_thread_says_how_long_it_may_be_silent() -> None:
    heart = Heart("f")
    assert polls(heart) is None, "it has not begun"
    heart.beat()
    assert polls(heart) == 10.0
    with heart.within(20.0):
        assert polls(heart) == 30.0
        heart.beat()
        assert polls(heart) == 30.0
    assert polls(heart) == 10.0
    heart.rest()
    assert polls(heart) is None
    with heart.within(5.0):
        assert polls(heart) == 15.0
    assert polls(heart) is None


def test_work_counts_only_while_it_could_be_done() -> None:
    waits = [True]
    heart = Heart("f", runnable=lambda: not waits[0])
    work = "the work of f"
    heart.turn(LIMITS)
    assert heart.signs(LIMITS)[work] == Sign(0, None)
    waits[0] = False
    heart.turn(LIMITS)
    assert heart.signs(LIMITS)[work] == Sign(0, 50.0)
    heart.done()
    heart.turn(LIMITS)
    assert heart.signs(LIMITS)[work] == Sign(1, 50.0)


class Given:
    """What a watchdog has complained of."""

    def __init__(self) -> None:
        self.found: Sequence[str] = ()
        self.report: Mapping[str, Any] = {}
        self.came = threading.Event()

    def __call__(self, found: Sequence[str], report: Mapping[str, Any]) -> None:
        self.found, self.report = found, report
        self.came.set()


def test_a_blocked_loop_is_seen_and_told_with_what_blocks_it() -> None:
    given = Given()

    async def block_the_loop() -> None:
        with Watchdog(Limits(silent=0.5, unfinished=50.0), act=given) as watchdog:
            watchdog.watch([Heart("f", tell=lambda: {"held": 3})])
            assert given.came.wait(20), "the loop is blocked by this very line"

    asyncio.run(block_the_loop())
    [line] = given.found
    assert line.startswith("the loop: nothing for")
    assert any("block_the_loop" in frame for frame in given.report["threads"])
    assert any("thread MainThread" in frame.lower() or "MainThread" in frame for frame in given.report["threads"])
    assert any("block_the_loop" in task for task in given.report["tasks"])
    assert given.report["flows"] == {"f": {"held": 3}}


def test_a_thread_that_polls_no_more_is_seen_while_the_loop_turns() -> None:
    given = Given()

    def fail() -> Mapping[str, object]:
        raise RuntimeError("dictionary changed size during iteration")

    async def wait() -> None:
        silent, alive = Heart("silent", tell=fail), Heart("alive")
        silent.beat()
        with Watchdog(Limits(silent=2.0, unfinished=50.0), act=given) as watchdog:
            watchdog.watch([silent, alive])
            while not given.came.is_set():
                alive.beat()
                await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(wait(), 20))
    assert [line.partition(":")[0] for line in given.found] == ["the thread that polls for silent"]
    assert given.report["flows"]["silent"] == "not known: RuntimeError"


def test_a_watchdog_that_is_done_leaves_no_thread() -> None:
    async def live() -> None:
        with Watchdog():
            await asyncio.sleep(0)

    began = time.monotonic()
    asyncio.run(live())
    assert all(thread.name != "watchdog" for thread in threading.enumerate())
    assert time.monotonic() - began < 30
