"""Threads that hand calls to each other run on one processor while busy: the kernel says where they may run."""

import asyncio
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from trunkline.engine.affinity import TASKS, Affinity, choose, keep_affinity, used_by, used_of_processors

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2, reason="there is but one processor"
)


@pytest.mark.parametrize(
    ("others", "chance", "wanted"),
    [
        ({0: 0.1, 1: 0.9}, 0.0, 0),
        ({0: 0.5, 1: 0.4}, 0.0, 0),  # not worth it
        ({0: 0.9, 1: 0.1}, 0.0, 1),
        ({0: 0.9, 1: 0.1}, 0.7, 0),  # another may be moving there at this moment
        ({0: 0.9, 1: 0.3, 2: 0.1}, 0.0, 2),
    ],
)
def test_it_moves_to_the_processor_that_others_leave_most_of(
    others: dict[int, float], chance: float, wanted: int
) -> None:
    assert choose(0, others, chance) == wanted


@pytest.fixture(autouse=True)
def _everywhere() -> Iterator[None]:
    """Let this process run where it could, whatever a test has left."""
    everywhere = os.sched_getaffinity(0)
    yield
    os.sched_setaffinity(0, everywhere)


def may_run_on(thread: int) -> set[int]:
    return os.sched_getaffinity(thread)


class Burner(threading.Thread):
    """Works on demand, so much that the kernel has counted it."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.id = 0
        self.ready = threading.Event()
        self.wanted = threading.Semaphore(0)
        self.burnt = threading.Semaphore(0)
        self.ended = False

    def run(self) -> None:
        self.id = threading.get_native_id()
        self.ready.set()
        while self.wanted.acquire() and not self.ended:
            until = used_by(TASKS / str(self.id)) + 0.1
            while used_by(TASKS / str(self.id)) < until:
                pass
            self.burnt.release()

    def burn(self) -> None:
        self.wanted.release()
        self.burnt.acquire()


@contextmanager
def burning() -> Iterator[Burner]:
    burner = Burner()
    burner.start()
    burner.ready.wait()
    try:
        yield burner
    finally:
        burner.ended = True
        burner.wanted.release()
        burner.join()


def test_they_are_bound_to_one_processor_while_they_are_busy_and_the_others_are_not() -> None:
    everywhere = may_run_on(0)
    with burning() as fetching, burning() as other:
        affinity = Affinity(0, lambda: [fetching.id])
        affinity.look(0.1, 0.9)
        fetching.burn()
        affinity.look(0.1, 0.9)
        assert may_run_on(fetching.id) == may_run_on(0) == {affinity.processor}
        assert may_run_on(other.id) == everywhere
        with burning() as child:  # it was started by one that is bound, and so begins where that is
            assert may_run_on(child.id) == {affinity.processor}
            fetching.burn()
            affinity.look(0.1, 0.9)
            assert may_run_on(child.id) == everywhere
        assert may_run_on(fetching.id) == {affinity.processor}
        affinity.look(1_000_000.0, 0.9)
        assert may_run_on(fetching.id) == may_run_on(0) == everywhere


def test_they_leave_a_processor_that_others_use(monkeypatch: pytest.MonkeyPatch) -> None:
    spent = dict.fromkeys(may_run_on(0), 0.0)
    monkeypatch.setattr("trunkline.engine.affinity.used_of_processors", spent.copy)
    with burning() as fetching:
        affinity = Affinity(0, lambda: [fetching.id])
        first = affinity.processor
        affinity.look(0.1, 0.0)
        fetching.burn()
        affinity.look(0.1, 0.0)
        assert affinity.processor == first
        fetching.burn()
        spent[first] += 1.0
        affinity.look(0.1, 0.0)
        assert affinity.processor != first
        assert may_run_on(fetching.id) == {affinity.processor}


def test_nothing_stays_bound_when_a_worker_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    everywhere = may_run_on(0)
    with burning() as fetching:
        affinity = Affinity(0, lambda: [fetching.id])
        affinity.look(0.1, 0.9)
        fetching.burn()
        affinity.look(0.1, 0.9)
        assert may_run_on(fetching.id) == may_run_on(0) == {affinity.processor}
        monkeypatch.setattr(affinity, "look", lambda *_: None)

        async def end() -> None:
            keeping = asyncio.create_task(keep_affinity(affinity))
            await asyncio.sleep(0)
            keeping.cancel()
            with pytest.raises(asyncio.CancelledError):
                await keeping

        asyncio.run(end())
        assert may_run_on(fetching.id) == may_run_on(0) == everywhere


def test_processes_of_one_host_begin_at_different_processors() -> None:
    assert Affinity(0, list).processor != Affinity(1, list).processor


def test_nothing_is_done_where_there_is_no_choice() -> None:
    os.sched_setaffinity(0, [min(may_run_on(0))])
    asyncio.run(asyncio.wait_for(keep_affinity(Affinity(0, list)), 5))  # it ends by itself


def test_the_kernel_counts_what_each_processor_does() -> None:
    [mine, *_] = may_run_on(0)
    os.sched_setaffinity(0, [mine])
    before, ours = used_of_processors()[mine], used_by(TASKS / str(threading.get_native_id()))
    while used_by(TASKS / str(threading.get_native_id())) < ours + 0.1:
        pass
    assert used_of_processors()[mine] - before >= 0.05
