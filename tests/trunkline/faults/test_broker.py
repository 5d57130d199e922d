"""A broker of its own that is killed under the gateway and both kinds of reading flow."""

import asyncio
import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.trunkline.support import Child, Stage, ask, deliver_bus, header, note, publish_bus, say, wait_for, whole_bus
from trunkline.dev.broker import LocalKafka
from trunkline.dev.target.behaviour import Behaviour
from trunkline.dev.target.running import RunningTarget
from trunkline.gateway.server import CLOSING_SECONDS
from trunkline.ledger.deliveries import State
from trunkline.settings import Secret
from trunkline.sources import StandardWebhooks

pytestmark = pytest.mark.faults(group="main")

AT_ONCE = 250


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[LocalKafka]:
    broker = LocalKafka(tmp_path / "broker")
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture
def own(
    broker: LocalKafka, witness: tuple[RunningTarget, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Stage:
    """Give a stage on a broker that may be killed."""
    running, database = witness
    stage = Stage("own" + datetime.now(UTC).strftime("%H%M%S%f"), broker.start().bootstrap, tmp_path, running, database)
    for name, value in stage.environment.items():
        monkeypatch.setenv(name, value)
    return stage


class Posts:
    """Notes posted by many senders at once; each is posted until the time is up or it is answered."""

    def __init__(self, url: str, numbers: range) -> None:
        self.answers: dict[int, httpx.Response | None] = {}
        self.open = 0
        self._url = url
        self._numbers = iter(numbers)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        self._thread.join()

    async def _run(self) -> None:
        limits = httpx.Limits(max_connections=AT_ONCE, max_keepalive_connections=AT_ONCE)
        async with httpx.AsyncClient(base_url=self._url, timeout=60, limits=limits, trust_env=False) as client:
            await asyncio.gather(*(self._send(client) for _ in range(AT_ONCE)))

    async def _send(self, client: httpx.AsyncClient) -> None:
        for number in self._numbers:
            data: Any = note(number, f"k{number % 40}")
            body = json.dumps({**data, "written_at": data["written_at"].isoformat()}).encode()
            headers = StandardWebhooks(Secret("DESK_SECRET")).sign(f"m{number}", body)
            self.open += 1
            try:
                self.answers[number] = await client.post("/in/desk", content=body, headers=headers)
            except httpx.TransportError:
                self.answers[number] = None
            self.open -= 1


def post_until_accepted(child: Child, numbers: range) -> None:
    """Post every note, and those that are told to come back again."""
    left = numbers
    for _ in range(20):
        posts = Posts(child.url, left)
        posts.start()
        posts.join()
        statuses = Counter(answer.status_code for answer in posts.answers.values() if answer is not None)
        if set(statuses) <= {200, 202}:
            return
        assert set(statuses) <= {200, 202, 503}, statuses
    raise AssertionError(f"not all were accepted: {statuses}")


def test_what_was_acknowledged_is_there_after_the_broker_was_killed(own: Stage, broker: LocalKafka) -> None:
    bus = own.make(whole_bus(own.prefix))
    numbers = range(1200)
    with own.child("whole_bus") as child:
        posts = Posts(child.url, numbers)
        posts.start()
        wait_for(lambda: len(posts.answers) >= 400 and posts.open >= 200)
        in_flight = posts.open
        broker.kill()
        say(f"{in_flight} posts in flight when the broker was killed")
        assert in_flight >= 200
        wait_for(lambda: any(one is not None and one.status_code == 503 for one in posts.answers.values()), seconds=60)
        broker.start()
        posts.join()
        statuses = Counter(answer.status_code if answer is not None else None for answer in posts.answers.values())
        say(f"answers: {dict(statuses)}")
        assert set(statuses) <= {202, 503, None}
        assert statuses[202]
        assert statuses[503]
        for answer in posts.answers.values():
            if answer is not None and answer.status_code == 503:
                assert answer.headers["content-type"] == "application/problem+json"
                assert int(answer.headers["retry-after"]) > 0
        topic = bus.topics[0].name
        found = Counter(header(record, "ce_id") for record in own.read(topic))
        acknowledged = {
            f"k{number % 40}-{number}" for number, answer in posts.answers.items()
            if answer is not None and answer.status_code == 202
        }  # fmt: skip
        assert acknowledged <= set(found), "an acknowledged event is lost"

        post_until_accepted(child, numbers)
        found = Counter(header(record, "ce_id") for record in own.read(topic))
        assert len(found) == 1200
        assert {count for event, count in found.items() if event in acknowledged} == {1}
        assert max(found.values()) <= 2

        wait_for(lambda: len(own.effects()) == 1200, seconds=60, why=lambda: (len(own.effects()), child.log[-3000:]))
        assert set(own.effects().values()) == {1}
        assert ask(f"{child.url}/readyz").status_code == 200, "a broker that comes back halts nothing"
        assert child.terminate() == 0


def test_a_worker_whose_broker_is_away_is_not_ready_until_it_is_back(own: Stage, broker: LocalKafka) -> None:
    own.make(publish_bus(own.prefix))
    with own.child("publish_bus", constants={"trunkline.gateway.app.SILENT": 3.0}) as child:
        assert ask(f"{child.url}/readyz").status_code == 200
        broker.kill()
        wait_for(lambda: ask(f"{child.url}/readyz").status_code == 503)
        assert "No broker has acknowledged anything for" in ask(f"{child.url}/readyz").json()["detail"]
        assert ask(f"{child.url}/healthz").status_code == 200
        broker.start()
        wait_for(lambda: ask(f"{child.url}/readyz").status_code == 200)


def test_a_termination_while_the_broker_stands_still_ends_in_time(own: Stage, broker: LocalKafka) -> None:
    bus = own.make(deliver_bus(own.prefix))
    own.target.control.break_(Behaviour(name=own.prefix, latency_ms=1_500))
    with own.child("deliver_bus", drain_seconds=10) as child:
        own.write(bus, [note(number, box) for number in range(4) for box in "abcdefgh"])
        wait_for(lambda: own.in_flight() == 8)
        pid = broker.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            assert child.terminate() in (0, 1)
            assert time.monotonic() - began < 10 + CLOSING_SECONDS + 5
        finally:
            os.kill(pid, signal.SIGCONT)
    with own.child("deliver_bus", name="again"):
        wait_for(lambda: own.rows() == {State.DONE: 32}, why=own.rows)
    assert set(own.effects().values()) == {1}
    assert len(own.attempts()) == 32, "what was in flight has been recorded"


def test_a_log_that_is_cut_off_is_noticed_and_what_came_after_it_is_read(broker: LocalKafka, own: Stage) -> None:
    """As it is after a replica was elected that lacks what others had, or a disk was brought back from a copy."""
    bus = own.make(deliver_bus(own.prefix, 1))
    [flow] = bus.delivering
    topic = bus.topics[0].name
    own.write(bus, [note(number) for number in range(10)])
    [log] = own.folder.rglob(f"{topic}-0/*.log")
    size = log.stat().st_size
    own.write(bus, [note(number) for number in range(10, 30)])

    def finished() -> bool:
        return own.committed(bus, flow) == own.ends(topic)

    with own.running(bus):
        wait_for(finished, why=own.rows)
    broker.stop()
    cut_off(log, size)
    broker.start()
    own.write(bus, [note(number) for number in range(30, 70)])
    with own.running(bus) as running:
        wait_for(lambda: running.details("halted"), why=own.rows)
    [why] = running.details("halted")
    assert f"{topic} partition 0 has lost records that were read" in why
    with own.control() as control:
        control.start_offsets(bus, [flow], "earliest")
    with own.running(bus):
        wait_for(finished, why=own.rows)
    assert own.rows() == {State.DONE: 70}
    assert set(own.effects().values()) == {1}


def cut_off(log: Path, size: int) -> None:
    """Let a stopped broker find so much of a partition and no more."""
    os.truncate(log, size)
    for file in (*log.parent.glob("*index"), *log.parent.glob("*.snapshot"), *log.parent.parent.glob("*checkpoint")):
        file.unlink()
    (log.parent.parent / ".kafka_cleanshutdown").unlink()
