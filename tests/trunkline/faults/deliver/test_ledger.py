"""A ledger that is locked, full, deleted or killed: the bus waits or stops, and skips nothing."""

import os
import resource
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack, closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.trunkline.faults.deliver.conftest import EVENTS, KEYS, MARKS, Case, conclusive
from tests.trunkline.faults.relay import Silence
from tests.trunkline.faults.test_ledger_faults import caught_up
from tests.trunkline.support import ROOT, ask, wait_for
from trunkline.dev.postgres import LocalPostgres

pytestmark = MARKS


def test_a_kill_while_the_ledger_is_locked(case: Case) -> None:
    case.make()
    case.strike(latency_ms=30)
    case.write()
    with case.worker() as child:
        case.until_busy(child)
        with closing(sqlite3.connect(case.stage.ledger, isolation_level=None, timeout=10)) as db:
            db.execute("BEGIN IMMEDIATE")
            # One call of each key may end; the next may not begin before the first is recorded.
            wait_for(lambda: case.stage.in_flight() == 0)
            conclusive(not case.finished(), "nothing was left to do")
            child.kill()
            db.execute("ROLLBACK")
    case.forget_killed()
    case.run_out()
    found = case.settle()
    conclusive(found.repeats > 0, "no call was waiting for the ledger")
    again = Counter(path.split("/")[1] for (path,) in case.target.rows("SELECT path FROM applied WHERE repeats > 0"))
    most = max(again.values())
    assert most == 1, f"invariant last: a crash repeats the last event of a key, not the last {most}"


def test_partitions_taken_over_while_the_ledger_is_locked_for_long(case: Case) -> None:
    """By a tool or a person with a transaction open: a worker that waits is not ended, and knows what was answered."""
    case.make()
    case.strike(latency_ms=100)
    sooner = {"trunkline.engine.watchdog.UNFINISHED": 15.0}
    with case.worker("one", constants=sooner) as one, case.worker("two", slot=1, constants=sooner) as two:
        case.write(2 * EVENTS)
        case.until_busy(two)
        with closing(sqlite3.connect(case.stage.ledger, isolation_level=None, timeout=10)) as db:
            db.execute("BEGIN IMMEDIATE")
            conclusive(not case.finished(), "nothing was left to do")
            two.kill()
            case.kills += 1
            time.sleep(45)
            assert '"watchdog"' not in one.log, one.log[:2000]
            db.execute("ROLLBACK")
        case.until_finished(60, one)
        case.end(one)
    found = case.settle(doubled=KEYS)
    assert found.repeats <= KEYS, "invariant repeats: only what the killed one had in flight comes again"


def test_a_ledger_without_room(case: Case) -> None:
    case.make()
    case.strike(latency_ms=30)
    with case.worker() as child:
        case.write(50)
        case.until_finished(60, child)
        size = max(path.stat().st_size for path in case.stage.folder.glob("ledger.db*"))
        resource.prlimit(child.pid, resource.RLIMIT_FSIZE, (size + 20_000, resource.RLIM_INFINITY))
        case.write(EVENTS)
        wait_for(lambda: '"stuck"' in child.log, why=lambda: child.log[-2000:])
        conclusive(not case.finished(), "all of it found room")
        case.look().check()
        resource.prlimit(child.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        case.until_finished(60, child)
        case.end(child)
    found = case.settle()
    assert found.states == {"done": EVENTS + 50}
    assert found.repeats <= KEYS, "invariant repeats"


def test_a_ledger_that_is_deleted(case: Case) -> None:
    case.make()
    case.strike(latency_ms=100)
    case.write(EVENTS)
    with case.worker() as child:
        case.until_busy(child)
        for path in case.stage.folder.glob("ledger.db*"):
            path.unlink()
        wait_for(lambda: '"stuck"' in child.log or '"halted"' in child.log, seconds=30, why=lambda: child.log[-2000:])
        child.kill()
    case.stage.forget_members(case.bus, case.flow)
    conclusive(not case.finished(), "nothing was left to do")
    had = case.target.attempts
    with case.worker("next") as child:
        wait_for(lambda: '"halted"' in child.log, why=lambda: child.log[-2000:])
        assert "trunkline ledger rebuild" in child.log, "invariant told: the halt names what to do"
        assert case.flow in ask(f"{child.url}/readyz").json()["stopped"]
        case.end(child)
    assert case.target.attempts == had, "invariant halt: nothing is sent without a ledger that can be trusted"
    effects = case.target.effects
    committed = case.committed
    skipped = [
        one.id
        for one in case.inputs()
        if one.place.offset < committed.get(one.place.partition, 0) and not effects[one.path]
    ]
    assert not skipped, f"invariant ahead: {len(skipped)} events are committed without an effect"
    wait_for(lambda: rebuild(case))  # a worker that was killed is forgotten after a while
    case.run_out(name="rebuilt")
    found = case.settle(doubled=KEYS)
    assert found.states == {"done": EVENTS}


def rebuild(case: Case) -> bool:
    """Run `trunkline ledger rebuild` in a project of its own; False while it waits for a worker."""
    project = case.stage.folder / "project"
    project.mkdir(exist_ok=True)
    (project / "topology.py").write_text(
        f"from tests.trunkline.faults import buses\n\nbus = buses.keyed({case.stage.prefix!r})\n"
    )
    environment = {
        **os.environ,
        **case.stage.environment,
        "PYTHONPATH": str(ROOT),
        "TRUNKLINE_KAFKA__BOOTSTRAP": case.stage.bootstrap,
        "TRUNKLINE_LEDGER__PATH": str(case.stage.ledger),
    }
    command = [sys.executable, "-c", "from trunkline.cli.main import app; app()", "ledger", "rebuild"]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 or "there are workers" in done.stderr, done.stderr
    return done.returncode == 0


def test_a_ledger_server_that_is_killed(case: Case, server: LocalPostgres) -> None:
    url = server.make_database("ledger")
    case.ledger = url
    case.secrets["ledger"] = unquote(urlsplit(url).password or "")
    case.make()
    case.strike(latency_ms=100)
    case.write(2 * EVENTS)
    with case.worker("one", ledger=url) as one, case.worker("two", slot=1, ledger=url) as two:
        for number in range(2):
            case.until_busy(one)
            server.kill()
            wait_for(lambda: '"stuck"' in one.log + two.log, why=lambda: (one.log[-2000:], two.log[-2000:]))
            wait_for(lambda: case.stage.in_flight() == 0)
            had = case.target.attempts
            server.start()
            case.kills += 1
            case.figures[f"calls at kill {number + 1}"] = had
            conclusive(not case.finished(), "nothing was left to do")
        case.until_finished(90, one, two)
        case.end(one)
        case.end(two)
    found = case.settle(doubled=case.kills * KEYS)
    assert found.states == {"done": 2 * EVENTS}
    assert found.repeats <= case.kills * KEYS, "invariant repeats"


@pytest.mark.timeout(240)
@pytest.mark.parametrize("bus", ["keyed", "blind"])
@pytest.mark.parametrize("when", ["running", "started again"])
def test_a_standby_without_the_last_commits_halts(
    case: Case, server: LocalPostgres, tmp_path: Path, when: str, bus: str
) -> None:
    """A worker that runs knows what it was promised; one that starts knows what was committed to Kafka."""
    url = server.make_database("ledger")
    case.secrets["ledger"] = unquote(urlsplit(url).password or "")
    case.make(bus)
    standby = server.copy_to(tmp_path / "standby")
    one, two = urlsplit(url), urlsplit(standby.url("ledger"))
    both = (
        f"host=127.0.0.1,127.0.0.1 port={one.port},{two.port} user={one.username} password={one.password} "
        "dbname=ledger target_session_attrs=read-write"
    )
    try:
        with ExitStack() as until:
            child = until.enter_context(case.worker(ledger=both))
            case.write(200)
            case.until_finished(60, child)
            caught_up(server, standby)
            standby.stop()
            case.write(200)
            case.until_finished(60, child)
            if when == "started again":
                case.end(child)
            server.kill()
            standby.start()
            standby.promote()
            had = case.target.attempts
            case.write(200)
            if when == "started again":
                child = until.enter_context(case.worker("again", ledger=both))
            wait_for(lambda: '"halted"' in child.log, why=lambda: child.log[-2000:])
            assert "trunkline ledger rebuild" in child.log, "invariant told: the halt names what to do"
            assert case.flow in ask(f"{child.url}/readyz").json()["stopped"]
            case.end(child)
        called = case.target.attempts - had
        most = KEYS if (when, bus) == ("running", "keyed") else 0
        assert called <= most, "invariant halt: no call is made that cannot be recorded, but one of each key"
    finally:
        standby.remove()


@pytest.mark.timeout(240)
@pytest.mark.parametrize("how", ["frozen", "cut off"])
def test_a_ledger_server_that_says_nothing(case: Case, server: LocalPostgres, how: str) -> None:
    """It keeps its connections, or what lies between does: the worker tells it, is not ended, and doubles nothing."""
    url = server.make_database("ledger")
    case.ledger = url
    case.secrets["ledger"] = unquote(urlsplit(url).password or "")
    port = urlsplit(url).port
    assert port is not None
    case.make("keyed" if how == "frozen" else "blind")
    case.strike(latency_ms=100)
    case.write(EVENTS)
    sooner = {"trunkline.ledger.postgres.ANSWER": 5.0, "trunkline.engine.watchdog.UNFINISHED": 20.0}
    with (
        closing(Silence(port)) as relay,
        case.worker(ledger=url.replace(f":{port}/", f":{relay.port}/"), constants=sooner) as child,
    ):
        wait_for(lambda: case.target.attempts > 300, why=lambda: child.log[-2000:])
        if how == "frozen":
            server.freeze()
        else:
            relay.silent = True
        wait_for(lambda: '"stuck"' in child.log, why=lambda: child.log[-2000:])
        time.sleep(30)
        assert '"watchdog"' not in child.log, child.log[:2000]
        conclusive(case.target.attempts < EVENTS, "nothing was left to do")
        if how == "frozen":
            server.thaw()
        else:
            relay.heal()
        case.until_finished(90, child)
        case.end(child)
    found = case.settle()
    assert found.states == {"done": EVENTS}
    assert found.attempts == EVENTS, "invariant repeats: a worker that lives knows what it has done"
