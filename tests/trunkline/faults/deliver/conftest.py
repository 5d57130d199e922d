"""One case: a bus with canaries, load that a seed decides, workers as processes, and an account at the end."""

import os
import re
import signal
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from kafka.errors import KafkaError

from tests.trunkline.faults import buses, canary
from tests.trunkline.faults.account import (
    Account,
    Input,
    Place,
    Target,
    account,
    digest,
    inputs_of,
    letters_of,
    states_of,
)
from tests.trunkline.faults.cluster import Cluster
from tests.trunkline.schemas import NoteWrittenV1
from tests.trunkline.support import Child, Stage, ask, note, read, say, wait_for
from trunkline.dev.target.behaviour import Behaviour
from trunkline.errors import Unavailable
from trunkline.flow.declare import Bus, dead_letters_of
from trunkline.kafka.control import Control

MARKS = [
    pytest.mark.faults(group="deliver"),
    # kafka-python leaves the sockets open with which it has tried a broker that was not there.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
EVENTS = 2_000
KEYS = 100
REFUSED = "refused"
BUS = "tests.trunkline.faults.buses:"


class InconclusiveError(AssertionError):
    """The fault did not bite, so the case says nothing."""


def conclusive(holds: object, what: str) -> None:
    """Fail unless the fault has really happened."""
    if not holds:
        raise InconclusiveError(f"inconclusive: {what}")


class Case:
    """One fault, its load and its witnesses."""

    def __init__(self, name: str, seed: int, stage: Stage, secrets: dict[str, str]) -> None:
        self.name = name
        self.seed = seed
        self.stage = stage
        self.secrets = secrets
        self.random = Random(seed)  # noqa: S311 - decides what a case does, so that it can be repeated
        self.figures: dict[str, object] = {}
        self.poison: set[Place] = set()
        self.kills = 0
        self.refused = 0
        """Events that were written to be refused."""
        self.bus: Bus
        self.sink = "shelf"
        """The sink that is balanced; another than the first must be named."""
        self.ledger: Path | str = stage.ledger
        """The file, or the address of the server."""
        self.stores = False
        """Whether the target stores the last state of each key; then an effect may be repeated by one step back."""
        self._made = ""
        self._options: dict[str, Any] = {}
        self._written: list[NoteWrittenV1] = []
        self._said: dict[str, bytes] = {}
        self._next: dict[str, int] = {}
        self._began = time.monotonic()

    # The bus and its load.

    def make(self, bus: str = "keyed", **options: Any) -> Bus:
        """Make a bus of `faults.buses` and its topics; workers run the bus that was made last."""
        self._made, self._options = bus, options
        self.bus = getattr(buses, bus)(self.stage.prefix, **options)
        return self.stage.make(self.bus)

    def become(self, bus: str, **options: Any) -> Bus:
        """Let workers run another bus from now on, without a preparation."""
        self._made, self._options = bus, options
        self.bus = getattr(buses, bus)(self.stage.prefix, **options)
        return self.bus

    def write(self, events: int = EVENTS, keys: int = KEYS, *, refused: float = 0.0) -> None:
        """Write events of keys that the seed chooses; the numbers of each rise. A share of them is to be refused."""
        data = []
        for _ in range(events):
            box = f"k{self.random.randrange(keys)}"
            number = self._next[box] = self._next.get(box, -1) + 1
            wrong = self.random.random() < refused
            self.refused += wrong
            data.append(note(number, box, REFUSED if wrong else ""))
        self.stage.write(self.bus, data)
        self._written += data

    def write_again(self, first: int | None = None) -> None:
        """Write the same events once more, the first so many or all."""
        self.stage.write(self.bus, self._written[:first])

    @contextmanager
    def load(self, events: int = 30, keys: int = KEYS) -> Iterator[None]:
        """Write events again and again until the end."""
        stopping = threading.Event()

        def write() -> None:
            while not stopping.wait(0.15):
                self.write(events, keys)

        thread = threading.Thread(target=write, name="load")
        thread.start()
        try:
            yield
        finally:
            stopping.set()
            thread.join()

    def strike(self, **behaviour: Any) -> None:
        """Let the target misbehave."""
        self.stage.target.control.break_(Behaviour(name=self.stage.prefix, **behaviour))

    def refuse(self, **behaviour: Any) -> None:
        """Let the target refuse what says that it is to be refused."""
        self.strike(status=422, match=f"text={REFUSED}", **behaviour)

    def heal(self) -> None:
        self.stage.target.control.heal(self.stage.prefix)

    # Workers.

    @contextmanager
    def worker(self, name: str = "worker", **more: Any) -> Iterator[Child]:
        """Run the bus in a process; what it logs and measures is searched for secrets."""
        with self.stage.child(BUS + self._made, name=name, options=self._options, **more) as child:
            yield child

    def thaw(self, child: Child) -> None:
        os.kill(child.pid, signal.SIGCONT)

    def refused_to_start(self) -> str:
        """Run a worker that is to end by itself with an error, and give what it says."""
        child = self.stage.child(BUS + self._made, name="refused", options=self._options)
        try:
            conclusive(not child.url, "it began by itself")
            assert child.wait() == 1
            return child.log
        finally:
            child.__exit__()

    def end(self, child: Child) -> None:
        """Let a worker end well, after it was asked for everything that it shows."""
        for page in ("metrics", "readyz", "healthz"):
            self._said[f"/{page} of {child.pid}"] = ask(f"{child.url}/{page}").content
        code = child.terminate()
        assert code == 0, f"a worker ended with {code}: {child.log[-3000:]}"

    def run_out(self, seconds: float = 60, **more: Any) -> None:
        """Run a worker until nothing is left to do."""
        with self.worker(**more) as child:
            self.until_finished(seconds, child)
            self.end(child)

    def until_finished(self, seconds: float = 60, *children: Child) -> None:
        wait_for(self.finished, seconds=seconds, why=lambda: [one.log[-3000:] for one in children])

    def until_busy(self, child: Child) -> None:
        """Wait until a worker has done something more and many calls are in flight."""
        seen = self.target.attempts
        wait_for(
            lambda: self.target.attempts > seen + 300 and self.stage.in_flight() >= KEYS // 2,
            why=lambda: child.log[-3000:],
        )

    def forget_killed(self) -> None:
        """Let the group go on without killed members at once, and see that nothing was committed too early."""
        self.kills += 1
        self.stage.forget_members(self.bus, self.flow)
        self.look().check(doubled=self.kills * KEYS, stale=self.kills)

    # Witnesses.

    @property
    def target(self) -> Target:
        return Target(self.stage.database, self.stage.prefix, self.sink, stores=self.stores)

    @property
    def flow(self) -> str:
        [flow] = [name for name, one in self.bus.delivering.items() if one.to.name == self.sink]
        return flow

    @property
    def committed(self) -> dict[int, int]:
        return self.stage.committed(self.bus, self.flow)

    def finished(self) -> bool:
        """Say whether every flow to a target has committed the end of its topic; not while no broker can say it."""
        try:
            ends = self.stage.ends(self.bus.topics[0].name)
            return all(self.stage.committed(self.bus, flow) == ends for flow in self.bus.delivering)
        except (Unavailable, KafkaError):
            return False

    def inputs(self) -> list[Input]:
        return inputs_of(self.stage.bootstrap, self.bus.topics[0].name, self.poison)

    def states(self) -> dict[Input, str]:
        """Give the state of every event in the ledger, in order per partition."""
        states = states_of(self.ledger)
        return {one: states.get(digest(self.sink, one.source, one.id)[:16], "") for one in self.inputs()}

    def look(self) -> Account:
        """Balance what there is now, leaving aside what is not finished yet.

        Each witness is asked before the ones that must have known earlier: offsets, ledger, letters and target.
        """
        return self._account(self.committed, states_of(self.ledger), under_way=True)

    def settle(self, *, doubled: int = 0, stale: int = 0, crossed: int = 0) -> Account:
        """Balance everything, search for every secret, print the figures and fail unless all is as it must be."""
        found = self._account(self.committed, states_of(self.ledger))
        found.leaks = canary.search(self.places(), self.secrets)
        ends = self.stage.ends(self.bus.topics[0].name)
        assert self.committed == ends, f"invariant finished: {self.committed} of {ends}"
        figures = "".join(f"; {name} {value}" for name, value in self.figures.items())
        took = time.monotonic() - self._began
        say(f"\ncase {self.name}, seed {self.seed}: {found}{figures}; {took:.1f} s\n    {self.again}")
        if self.stores:
            back = self.target.steps_back()
            far = [step for step in back if step[1] > 1]
            assert not far, f"invariant back: {len(far)} values went back by more than one version: {far[:5]}"
            found.duplicates = []
        found.check(doubled=doubled, stale=stale, crossed=crossed)
        return found

    @property
    def again(self) -> str:
        """The command that runs this case alone."""
        test = re.sub(r"@\w+$", "", os.environ["PYTEST_CURRENT_TEST"].rpartition(" ")[0])  # its group is no name of it
        return f"FAULT_SEED={self.seed} .venv/bin/pytest -s '{test}'"

    def places(self) -> dict[str, bytes]:
        """Give everything in which a secret might be."""
        found = dict(self._said)
        found |= {f"log {path.name}": path.read_bytes() for path in self.stage.folder.glob("*.log")}
        found |= {f"ledger {path.name}": path.read_bytes() for path in self.stage.folder.glob("ledger.db*")}
        with Control(self.stage.cluster) as control:
            topics = [topic for topic in control.topics() if self.stage.prefix in topic]
        for topic in topics:
            parts = [
                part or b""
                for record in read(self.stage.bootstrap, topic)
                for part in (record.key, record.value, *(part for pair in record.headers for part in encoded(*pair)))
            ]
            found[f"topic {topic}"] = b"\n".join(parts)
        return found

    def _account(
        self, committed: Mapping[int, int], states: Mapping[bytes, str], *, under_way: bool = False
    ) -> Account:
        return account(
            self.inputs(),
            under_way=under_way,
            sink=self.sink,
            states=states,
            letters=letters_of(self.stage.bootstrap, dead_letters_of(self.flow)),
            target=self.target,
            committed=committed,
        )


def encoded(name: str, value: bytes | None) -> tuple[bytes, bytes]:
    return name.encode(), value or b""


@contextmanager
def opened(
    stage: Stage, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, **changed: Any
) -> Iterator[Case]:
    """Open a case on a stage, or on one that differs from it."""
    name = request.node.name.removeprefix("test_")
    seed = int(os.environ.get("FAULT_SEED") or zlib.crc32(name.encode()) % 10_000)
    random = Random(seed)  # noqa: S311 - canaries that can be made again
    secrets = {
        "SHELF_KEY": canary.plant(random),
        "DESK_SECRET": canary.signing(random),
    }
    canary.prove(secrets)
    stage = replace(stage, **changed)
    stage.environment.update(secrets)
    for variable, value in stage.environment.items():
        monkeypatch.setenv(variable, value)
    yield Case(name, seed, stage, secrets)


@pytest.fixture(scope="session")
def single(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Give a broker that may be harmed, behind a proxy."""
    with Cluster(tmp_path_factory.mktemp("single"), 1) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Give three brokers that may be harmed."""
    with Cluster(tmp_path_factory.mktemp("three"), 3) as cluster:
        yield cluster


@pytest.fixture
def alone(
    single: Cluster, stage: Stage, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Case]:
    """Open a case on a broker that may be harmed."""
    with opened(stage, request, monkeypatch, bootstrap=single.bootstrap, kafka=single.kafka) as case:
        yield case
    single.restore()


@pytest.fixture
def among(
    three: Cluster, stage: Stage, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Case]:
    """Open a case on three brokers that may be harmed."""
    with opened(stage, request, monkeypatch, bootstrap=three.bootstrap, kafka=three.kafka) as case:
        yield case
    three.restore()


@pytest.fixture
def case(stage: Stage, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Case]:
    """Open a case on the shared broker."""
    with opened(stage, request, monkeypatch) as case:
        yield case
