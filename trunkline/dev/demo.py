"""The demo's parts: a broker with nothing of the bus on it, a target, a worker, a sender, and the waiting for the end.

What a run leaves behind is in its folder (`build/demo`): the target's database, the worker's log, the reports. Broker
and ledger are where every command finds them, so that a second terminal sees the same bus; when a person's own records
are there, the run has both in its folder.
"""

import asyncio
import contextlib
import importlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit

import httpx
import orjson
from kafka.admin import KafkaAdminClient
from pyreqwest.client import ClientBuilder
from pyreqwest.compatibility.httpx import HttpxTransport

from trunkline.adapters import Source
from trunkline.dev import broker, witness
from trunkline.dev.broker import LocalKafka, Progress
from trunkline.dev.report import Evidence, Report, judge
from trunkline.dev.scenario import Fact, Scenario
from trunkline.dev.target.running import RunningTarget, start
from trunkline.dev.witness import Topics
from trunkline.errors import Unavailable, UsageError
from trunkline.flow.credentials import ApiKey
from trunkline.flow.declare import (
    Bus,
    Deliver,
    Target,
    dead_letters_of,
    group_of,
    identity_of,
    replay_of,
    schemas_of,
    sink_identity,
)
from trunkline.kafka.control import Control
from trunkline.kafka.topics import Create, names, plan, reading
from trunkline.ledger import deliveries, reach
from trunkline.settings import Settings

AT_ONCE = 64
"""Requests of the sender that wait for an answer at most."""
POSTS = 3
"""Times that an event is posted while nobody answers, `PAUSE` seconds apart."""
PAUSE = 1.0
STALLED = 30.0
"""Seconds without progress after which nothing more is waited for."""
SETTLING = 40.0
"""Seconds for which offsets and counters may lag behind what has happened, and agents wait for what does not."""
STARTING = 90.0
STOPPING = 40.0
"""A little more than a worker's drain takes."""

Tell = Callable[[int, int], None]
"""Hears how much is done of how much."""


def find(name: str) -> Scenario:
    """Import a scenario by `module:name`.

    Raises:
        UsageError: there is none.
    """
    module, colon, attribute = name.partition(":")
    try:
        if colon:
            found: Scenario = getattr(importlib.import_module(module), attribute)
            return found
    except (ImportError, AttributeError) as error:
        raise UsageError(f"the scenario {name} cannot be loaded: {error}.") from error
    raise UsageError(f"{name} names no scenario. Write it as module:name.")


def check(bus: Bus, scenario: Scenario) -> None:
    """Compare the names of a scenario with those of the topology.

    Raises:
        UsageError: it names something that the bus has not.
    """
    sinks = [sink.name for sink in bus.sinks]
    if scenario.source not in bus.publishing:  # those of `following` are looked up when they are posted
        raise UsageError(f"the scenario's source {scenario.source} is not one of: {', '.join(bus.publishing)}.")
    if scenario.incident.sink not in sinks:
        raise UsageError(f"the scenario's sink {scenario.incident.sink} is not one of: {', '.join(sinks)}.")


# Where it runs.


@contextlib.contextmanager
def place(bus: Bus, settings: Settings, folder: Path, say: Progress) -> Iterator[tuple[Settings, str]]:
    """Give settings and address of a broker with nothing of the bus on it, and stop it afterwards if it was down.

    What an earlier demo left is removed. Where a person's own records are, or a worker runs, nothing is touched: then
    broker and ledger are the run's own, in its folder.

    Raises:
        UsageError: the configured broker is not free, or Java or Maven is missing.
        Unavailable: the broker cannot be reached or started.
    """
    with contextlib.ExitStack() as stack:
        was_up = broker.running(settings) is not None
        if not was_up:
            stack.callback(broker.down, settings)
        found = broker.up(settings, progress=say)
        if taken := clear(bus, settings, found.bootstrap):
            if found.kind == "configured":
                raise UsageError(
                    f"{taken} at {found.bootstrap}. The demo counts every record: set TRUNKLINE_KAFKA__BOOTSTRAP to a "
                    "broker that nobody uses, or unset it."
                )
            say(f"{taken} at {found.bootstrap}, which is left alone: this demo has a broker of its own in {folder}.")
            stack.close()
            settings = settings.model_copy(update={"state": folder})
            local = LocalKafka(folder / "broker", progress=say)
            stack.callback(local.stop)
            found = local.start()
            clear(bus, settings, found.bootstrap)
        if settings.state != folder and settings.ledger.path.exists():
            say(f"{settings.ledger.path} is no demo's and left alone: this demo has a ledger of its own in {folder}.")
        if settings.state == folder or settings.ledger.path.exists() or settings.ledger.url is not None:
            own = settings.ledger.model_copy(update={"path": folder / "ledger.db", "url": None})
            settings = settings.model_copy(update={"ledger": own})
        yield settings, found.bootstrap


def clear(bus: Bus, settings: Settings, bootstrap: str) -> str:
    """Remove what an earlier demo left of the bus and mark the broker as a demo's; or say why it is not ours to do.

    The mark is a topic, so it goes wherever the records go.
    """
    mark = f"trunkline.{bus.identity}.demo"
    groups = [group_of(bus, identity_of(flow)) for flow in reading(bus).values()]
    with Control(bootstrap) as control:
        known = control.topics().keys()
        ours = names(bus) & known
        if any(control.members(group) for group in groups):
            return f"A worker runs the bus {bus.name}"
        if mark in known:
            remove([mark, *ours], groups, bootstrap)
            path = settings.ledger.path
            for file in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
                file.unlink(missing_ok=True)
        else:
            low, high = control.beginnings(ours), control.ends(ours)
            used = [slot.topic for slot in low if low[slot] < high[slot] and slot.topic != schemas_of(bus)]
            if used:
                return f"There are records on {used[0]} that are no demo's"
        control.apply([Create(mark, 1, settings.kafka.replication, {}, "the mark of a demo")])
    return ""


def remove(topics: Sequence[str], groups: Sequence[str], bootstrap: str) -> None:
    """Delete groups and topics.

    Raises:
        Unavailable: a group is still there; its offsets would hide what comes next from it.
    """
    with witness.told(bootstrap), contextlib.closing(KafkaAdminClient(bootstrap_servers=bootstrap)) as admin:
        left, until = dict.fromkeys(groups, ""), time.monotonic() + SETTLING
        while left:  # a broker that has just started is still loading them
            answers: dict[str, str] = admin.delete_groups(list(left))
            left = {group: said for group, said in answers.items() if said not in ("OK", "GroupIdNotFoundError")}
            if left and time.monotonic() > until:
                raise Unavailable(f"the groups of the last demo cannot be deleted: {left}.")
            time.sleep(0.2 if left else 0)
        admin.delete_topics(list(topics))


def fresh(folder: Path) -> None:
    """Empty a run's folder; a broker that a killed run left there is stopped first.

    Raises:
        UsageError: there are files in it that are no run's.
    """
    mark = folder / ".demo"
    if folder.exists() and not mark.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder} holds something else, and would be emptied. Take another folder: --out.")
    if (folder / "broker").exists():
        LocalKafka(folder / "broker").stop()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    mark.touch()


def free_port(host: str, wanted: int) -> int:
    """Give the wanted port when it is free, else one that is.

    Raises:
        Unavailable: the host is not this machine's.
    """
    for port in (wanted, 0):
        with contextlib.suppress(OSError), socket.create_server((host, port)) as probe:
            number: int = probe.getsockname()[1]
            return number
    raise Unavailable(f"no port of {host} can be taken. Set TRUNKLINE_GATEWAY__HOST to an address of this machine.")


# The target.


def targets(bus: Bus) -> dict[str, Target]:
    """Give every target that a sink calls, by name."""
    return {flow.to.target.name: flow.to.target for flow in bus.delivering.values()}


def api_of(target: Target) -> str:
    """Name a target's API at the development server: the first segment of its address's path, else its own name.

    Raises:
        UsageError: its address is not set.
    """
    return urlsplit(target.url.read()).path.strip("/").partition("/")[0] or target.name


def address_of(target: Target, base: str) -> str:
    """Give a target's address at the development server."""
    path = urlsplit(target.url.read()).path.rstrip("/") or f"/{target.name}"
    return urlunsplit((*urlsplit(base)[:2], path, "", ""))


def start_target(bus: Bus, folder: Path) -> RunningTarget:
    """Start the server that stands for every target, at the port of their addresses when it is free.

    Raises:
        UsageError: an address or a secret is not set.
        Unavailable: it did not start.
    """
    every = targets(bus)
    keyed = [(api_of(one), one.auth) for one in every.values() if isinstance(one.auth, ApiKey)]
    require = [f"{api}:{auth.header}:{auth.secret.read()}" for api, auth in keyed]
    wanted = next((urlsplit(one.url.read()).port for one in every.values()), None)
    return start(folder / "target.db", free_port("127.0.0.1", wanted or 0), require)


@contextlib.contextmanager
def announced(bus: Bus, settings: Settings, base: str) -> Iterator[None]:
    """Let `demo break` and `demo heal` find the target for as long as it is up."""
    file = settings.state / "demo.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({name: address_of(one, base) for name, one in targets(bus).items()}))
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def aim(bus: Bus, settings: Settings, name: str) -> tuple[str, str]:
    """Find the API that is meant by the name of a sink or a target: the server's address, and the API's name there.

    Raises:
        UsageError: there is no such sink or target, or nobody knows its address.
    """
    known = {flow.to.name: flow.to.target for flow in bus.delivering.values()} | targets(bus)
    if name not in known:
        raise UsageError(f"there is no sink or target {name}. There are: {', '.join(known)}.")
    try:
        url = json.loads((settings.state / "demo.json").read_text())[known[name].name]
    except (OSError, ValueError, KeyError):
        url = known[name].url.read()
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}", parts.path.strip("/").partition("/")[0] or known[name].name


# The worker and other commands.


def command(*arguments: str) -> list[str]:
    """Give a `trunkline` command as its own process runs it."""
    return [shutil.which("trunkline", path=str(Path(sys.executable).parent)) or sys.argv[0], *arguments]


@contextlib.contextmanager
def working(environment: Mapping[str, str], gateway: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run every flow in a process of its own; it is ready when this begins, and has drained when it ends.

    Raises:
        Unavailable: it ended, or was not ready in time; its log says why.
    """
    with log.open("wb") as file:
        # A session of its own: Ctrl-C is the demo's, which then stops everything in order.
        worker = subprocess.Popen(  # noqa: S603 - ourselves
            command("run"), stdout=file, stderr=file, env={**inherited(), **environment}, start_new_session=True
        )
    try:
        until = time.monotonic() + STARTING
        while not (f"port {gateway};" in log.read_text(errors="replace") and ready(gateway)):
            alive(worker, gateway, log)
            if time.monotonic() > until:
                raise Unavailable(f"the worker was not ready after {STARTING:.0f} s. Its log is {log}.")
            time.sleep(0.05)
        yield worker
    finally:
        worker.terminate()
        try:
            worker.wait(STOPPING)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()


def joined(bus: Bus, bootstrap: str) -> None:
    """Return when somebody reads for every flow.

    Raises:
        Unavailable: nobody does in time.
    """
    until = time.monotonic() + STARTING
    with Control(bootstrap) as control:
        for name, flow in reading(bus).items():
            while not any(member.slots for member in control.members(group_of(bus, identity_of(flow)))):
                if time.monotonic() > until:
                    raise Unavailable(f"nobody reads for the flow {name} after {STARTING:.0f} s.")
                time.sleep(0.05)


def ready(gateway: str) -> bool:
    """Tell whether a worker runs; it may say that some of its flows do not."""
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"{gateway}/healthz", timeout=5, trust_env=False).is_success
    return False


def alive(worker: subprocess.Popen[bytes], gateway: str, log: Path) -> None:
    """Return while the worker and all its flows run.

    Raises:
        Unavailable: it has ended, or a flow has halted.
    """
    if (code := worker.poll()) is not None:
        lines = log.read_text(errors="replace").strip().splitlines() or ["it says nothing"]
        raise Unavailable(f"the worker has ended with {code}: {lines[-1]} All of it is in {log}.")
    with contextlib.suppress(httpx.HTTPError):
        if stopped := httpx.get(f"{gateway}/readyz", timeout=5, trust_env=False).json()["stopped"]:
            raise Unavailable(" ".join(f"{flow} has halted: {why}" for flow, why in stopped.items()))


# The run.


@dataclass(frozen=True, slots=True)
class Stage:
    """Everything that is up."""

    settings: Settings
    bootstrap: str
    gateway: str
    database: Path
    worker: subprocess.Popen[bytes]
    log: Path


class Run:
    """One run of a scenario on a stage, a context manager: post, wait, report."""

    def __init__(self, bus: Bus, scenario: Scenario, stage: Stage) -> None:
        self.posted = 0
        self.answers: dict[str, Counter[str]] = {name: Counter() for name in bus.publishing}
        self._bus = bus
        self._scenario = scenario
        self._stage = stage
        topics = {topic.name for topic in bus.topics}
        letters = {dead_letters_of(identity_of(flow)) for flow in reading(bus).values()}
        replays = {replay_of(identity_of(flow)) for flow in bus.delivering.values()}
        self._topics = Topics(stage.bootstrap, stage.gateway, topics | letters | replays)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._topics.close()

    def post(self, count: int, rate: float, tell: Callable[[int], None]) -> Counter[str]:
        """Post the next events to the gateway, `rate` a second (0: as fast as possible); `tell` hears how many are.

        Give the posts that had no answer, by what failed; each was posted again.
        """
        first = Posted(self._scenario.source, b"")
        chains = [
            [replace(first, body=orjson.dumps(body))]
            + [Posted(name, orjson.dumps(more)) for name, more in self._scenario.following(number, body)]
            for number, body in enumerate(self._scenario.requests(self.posted, count), self.posted)
        ]
        if len(chains) < count:
            raise UsageError(f"the input has only {self.posted + len(chains)} events. Take fewer: --events.")
        sources = {name: flow.source for name, flow in self._bus.publishing.items()}
        unanswered = asyncio.run(post(self._stage.gateway, sources, chains, rate, self.answers, tell))
        self.posted += count
        return unanswered

    def finished(self) -> dict[str, Counter[str]]:
        """Count what the ledger has, by sink and state."""
        with reach(self._stage.settings.ledger).connect() as db:
            return {
                sink.name: Counter(
                    {state.name.lower(): count for state, count in deliveries.count(db, sink_identity(sink)).items()}
                )
                for sink in self._bus.sinks
            }

    def due(self) -> int:
        """Count the deliveries that must come of what was posted."""
        facts = self._scenario.expected(self.posted).facts
        return sum(len(facts.get(flow.topic.name, ())) for flow in self._bus.delivering.values())

    def wait(self, tell: Tell) -> None:
        """Wait until every delivery has an outcome, or until nothing moves any more: the report says then what lacks.

        Raises:
            Unavailable: the worker has ended.
        """
        due, done, since = self.due(), -1, time.monotonic()
        while True:
            now = sum(counts.total() for counts in self.finished().values())
            tell(now, due)
            if now != done:
                done, since = now, time.monotonic()
            if done >= due or time.monotonic() - since > STALLED:
                return
            alive(self._stage.worker, self._stage.gateway, self._stage.log)
            time.sleep(0.1)

    def report(self, refused: Collection[Fact], tell: Tell) -> Report:
        """Let the witnesses speak; offsets and counters are asked again while they lag behind what has happened."""
        expected = self._scenario.expected(self.posted)
        until = time.monotonic() + SETTLING
        while True:
            self._topics.read(tell)
            apis = self.apis()
            evidence = Evidence(
                expected=expected,
                refused=refused,
                answers=self.answers,
                records=self._topics.records,
                committed={
                    name: self._topics.committed(group_of(self._bus, identity_of(flow)))
                    for name, flow in reading(self._bus).items()
                },
                apis=apis,
                metrics=witness.metrics(self._stage.gateway),
                ledger=self.finished(),
            )
            report = judge(self._bus, self._scenario, evidence)
            if report.balanced or time.monotonic() > until:
                return report
            time.sleep(0.2)

    def apis(self) -> dict[str, witness.Api]:
        """Read what the target has recorded, by sink."""
        found = witness.apis(self._stage.database)
        flows: list[Deliver] = list(self._bus.delivering.values())
        return {flow.to.name: found.get(api_of(flow.to.target), witness.Api()) for flow in flows}


@dataclass(frozen=True, slots=True)
class Posted:
    """What a source posts."""

    source: str
    body: bytes


async def post(
    gateway: str,
    sources: Mapping[str, Source],
    chains: Sequence[Sequence[Posted]],
    rate: float,
    answers: Mapping[str, Counter[str]],
    tell: Callable[[int], None],
) -> Counter[str]:
    """Post chains of bodies, each signed, `rate` a second and at most 64 at once; count what is answered, by outcome.

    Of a chain each is posted when the one before has been taken. What has no answer is posted again under its id, three
    times in all, as senders of webhooks do; the posts that had none are given back, counted by what failed.
    """
    loop = asyncio.get_running_loop()
    gate = asyncio.Semaphore(AT_ONCE)
    unanswered: Counter[str] = Counter()
    done = 0

    async def is_taken(client: httpx.AsyncClient, number: int, one: Posted) -> bool:
        counts = answers[one.source]
        headers = sources[one.source].verify.sign(f"demo_{number}_{time.time_ns()}", one.body)
        for left in reversed(range(POSTS)):
            try:
                answer = await client.post(f"/in/{one.source}", content=one.body, headers=headers)
                break
            except httpx.TransportError as error:
                unanswered[type(error).__name__] += 1
                if not left:
                    counts["unanswered"] += 1
                    return False
                await asyncio.sleep(PAUSE)
        if answer.is_success:
            counts.update(event["outcome"] for event in answer.json()["events"])
        else:
            counts["rejected"] += 1
        return answer.is_success

    async def each(client: httpx.AsyncClient, number: int, chain: Sequence[Posted]) -> None:
        nonlocal done
        try:
            for one in chain:
                if not await is_taken(client, number, one):
                    break
        finally:
            gate.release()
        done += 1
        tell(done)

    # With its own transport httpx takes more of the machine for posting than the bus takes for the events.
    transport = HttpxTransport(ClientBuilder().no_proxy().build())
    async with (
        httpx.AsyncClient(base_url=gateway, transport=transport, timeout=30) as client,
        asyncio.TaskGroup() as group,
    ):
        began = loop.time()
        for number, chain in enumerate(chains):
            if rate:
                await asyncio.sleep(began + number / rate - loop.time())
            await gate.acquire()
            group.create_task(each(client, number, chain))
    return unanswered


def refused(scenario: Scenario, bus: Bus, before: int, after: int) -> list[Fact]:
    """Give the facts of the sink's records that the incident strikes: what comes of the events between two counts."""
    incident = scenario.incident
    [topic] = [flow.topic.name for flow in bus.delivering.values() if flow.to.name == incident.sink]
    early, late = (Counter(scenario.expected(count).facts.get(topic, ())) for count in (before, after))
    return [fact for fact in (late - early).elements() if incident.strikes(fact)]


def create_topics(bus: Bus, settings: Settings, bootstrap: str) -> int:
    """Create the topics of a bus; say how many."""
    with Control(bootstrap) as control:
        return len(control.apply(plan(bus, control.existing(names(bus)), settings.kafka)))


def inherited() -> dict[str, str]:
    """Give this process's environment without the ledger's server: a demo has a file of its own."""
    return {name: value for name, value in os.environ.items() if not name.startswith("TRUNKLINE_LEDGER__URL")}


def as_environment(settings: Settings) -> dict[str, str]:
    """Give settings as variables, where they are not the default."""
    plain: Any = settings.model_dump(mode="json", exclude_defaults=True)
    found: dict[str, str] = {}
    for name, value in plain.items():
        if isinstance(value, dict):
            found |= {f"TRUNKLINE_{name}__{leaf}".upper(): str(inner) for leaf, inner in value.items()}
        else:
            found[f"TRUNKLINE_{name}".upper()] = str(value)
    return found
