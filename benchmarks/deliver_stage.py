"""What every contender that delivers meets: a broker, a target, and one run of one contender."""

import os
import subprocess
import sys
import threading
import time
import uuid
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import httpx

from benchmarks.events import Writer
from benchmarks.stage import BUILD, ROOT, START_SECONDS, FailedError, Stage, log_of, started
from benchmarks.target import Plan, Report

SCHEMA = ROOT / "benchmarks" / "schemas" / "sale_recorded.v1.avsc"
REST_SECONDS = 15.0
"""How long what has not come when the window closes may take before it is lost, if it can come in that time at all."""


@dataclass(frozen=True, slots=True)
class Contender:
    """Somebody who delivers: how its process is started and what order it promises per key."""

    name: str
    command: tuple[str, ...]
    order: str
    concurrency: int = 256
    note: str = ""


class DeliverStage(Stage):
    """A target besides, which counts what it is sent."""

    def __enter__(self) -> Self:
        """Start both.

        Raises:
            FailedError: another benchmark runs here.
        """
        super().__enter__()
        target = self._ours.enter_context(started([sys.executable, "-m", "benchmarks.target"], {}, "target"))
        assert target.stdout is not None
        self.url = target.stdout.readline().decode().strip()
        self._http = self._ours.enter_context(httpx.Client(base_url=self.url, timeout=60, trust_env=False))
        return self

    def run(self, contender: Contender, topic: str, paced: "Paced | None" = None, **plan: Any) -> Report:
        """Let a contender deliver a topic, from its beginning and in a new group, and give what the target saw.

        Raises:
            FailedError: its process ended, or nothing came.
        """
        group = f"bench-{uuid.uuid4().hex[:8]}"
        ledger = BUILD / f"{group}.db"
        environment = {
            "BOOTSTRAP": self.bootstrap,
            "TOPIC": topic,
            "GROUP": group,
            "TARGET_URL": self.url,
            "SCHEMA": str(SCHEMA),
            "CONCURRENCY": str(contender.concurrency),
            "LEDGER": str(ledger),
        }
        try:
            with started(contender.command, environment, contender.name) as process:
                broker = self._kafka.pid
                assert broker is not None
                asked = Plan(pid=process.pid, broker=broker, sender=os.getpid(), **plan)
                self.begin(asked)
                if paced is not None:
                    paced.begin(self.writer, topic, lambda: self.report().effects)
                return self._wait(contender, process, asked)
        finally:
            self.writer.drop(group)
            for file in BUILD.glob(f"{ledger.name}*"):
                file.unlink()

    def plan(self, pid: int, events: int, seconds: float) -> Plan:
        """Give the plan of a run whose every event is timed, in a window of so many seconds."""
        broker = self._kafka.pid
        assert broker is not None
        every: Any = {"events": events, "others": events, "latency_ms": 0.0, "timed": True, "window_s": seconds}
        return Plan(pid=pid, broker=broker, sender=os.getpid(), **every)

    def begin(self, plan: Plan) -> None:
        """Let the target count anew."""
        self._http.post("/run", json=asdict(plan)).raise_for_status()

    def report(self) -> Report:
        """Ask the target what it has seen."""
        return Report(**self._http.get("/report").json())

    def _wait(self, contender: Contender, process: "subprocess.Popen[bytes]", plan: Plan) -> Report:
        until = time.monotonic() + START_SECONDS + plan.window_s
        rest = 0.0
        while True:
            report = self.report()
            if process.poll() is not None:
                raise FailedError(f"{contender.name} ended with {process.returncode}; see {log_of(contender.name)}")
            if report.over and not report.window_effects:
                raise FailedError(f"{contender.name} stood still; see {log_of(contender.name)}")
            if report.whole:
                time.sleep(0.3)  # for copies that may still come
                return replace(self.report(), ended=True)
            if report.over:
                if not rest and (plan.slow_ms or report.lost * report.window_s > REST_SECONDS * report.window_effects):
                    return report
                rest = rest or time.monotonic() + 2 * REST_SECONDS
                if time.monotonic() > rest:
                    return replace(report, ended=True)
            elif time.monotonic() > until:
                raise FailedError(f"{contender.name} delivered {report.effects} events; see {log_of(contender.name)}")
            time.sleep(0.1)


class Paced:
    """Writes a topic at a steady rate while a contender reads it; a few events come first, so that it has begun."""

    FIRST = 200

    def __init__(self, events: int, per_second: float) -> None:
        self.events = events
        self._per_second = per_second

    def begin(self, writer: Writer, topic: str, effects: Any) -> None:
        """Write the first few, wait until they are delivered, and let a thread write the others."""
        writer.pace(topic, 0, self.FIRST, self._per_second)
        until = time.monotonic() + START_SECONDS
        while effects() < self.FIRST:
            if time.monotonic() > until:
                raise FailedError(f"the first events of {topic} were not delivered")
            time.sleep(0.1)
        rest = (topic, self.FIRST, self.events - self.FIRST, self._per_second)
        threading.Thread(target=writer.pace, args=rest, daemon=True).start()
