"""From a POST at the gateway to the effect at the target, over every hop: `make bench-e2e`, in two minutes.

One worker takes signed sales of one line, publishes, joins and delivers them, with transactions and ledger. The times
run from the moment at which a sale is signed and posted to the arrival of its call at the target. Exit code 1 says that
a bar was missed.
"""

import asyncio
import json
import os
import shutil
import signal
import socket
import statistics
import sys
import time
import uuid
from datetime import UTC, datetime
from typing import Annotated, Any

import httpx
import orjson
import typer
from pyreqwest.client import ClientBuilder

from benchmarks import results
from benchmarks.deliver_stage import DeliverStage
from benchmarks.report import QUIET, out, talk, versions
from benchmarks.stage import BUILD, FailedError, log_of, started
from benchmarks.target import Report
from trunkline.settings import Secret
from trunkline.sources import StandardWebhooks

SECRET = "whsec_YmVuY2gtYmVuY2gtYmVuY2gtYmVuY2gtYmVuY2g="  # noqa: S105 - signs nothing but benchmarks
RATE = 500.0
SECONDS = 20.0
WARM = 4.0
PRODUCTS = 10_000
P50, P99 = 25.0, 75.0
INTRODUCTION = """\
Broker, worker, target and sender share the machine. *p50* and *p99* run from signing a sale to its call at the target;
*post* is the gateway's answer alone."""


def measure(stage: DeliverStage) -> tuple[Report, list[float]]:
    """Post at the rate while the worker runs; give what the target saw, and how long each POST took.

    Raises:
        FailedError: the worker ended, or not everything came.
    """
    group = f"bench-{uuid.uuid4().hex[:8]}"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    state = BUILD / group
    state.mkdir()
    environment = {
        "BOOTSTRAP": stage.bootstrap,
        "GROUP": group,
        "STATE": str(state),
        "PORT": str(port),
        "TARGET_URL": stage.url,
        "TILL_SECRET": SECRET,
    }
    events = int(RATE * (SECONDS + WARM))
    with started([sys.executable, "-m", "benchmarks.contenders.whole_worker"], environment, "whole") as process:
        plan = stage.plan(process.pid, events, SECONDS)
        wait_for_gateway(f"http://127.0.0.1:{port}/readyz", process)
        stage.begin(plan)
        took = asyncio.run(post(f"http://127.0.0.1:{port}/in/till", events))
        until = time.monotonic() + 20
        while not (report := stage.report()).whole:
            if time.monotonic() > until or process.poll() is not None:
                raise FailedError(f"{report.effects} of {events} events came; see {log_of('whole')}")
            time.sleep(0.1)
    stage.writer.drop(group)
    shutil.rmtree(state, ignore_errors=True)
    return report, took


def wait_for_gateway(url: str, process: Any) -> None:
    """Return when the worker is ready.

    Raises:
        FailedError: it has ended, or is not ready in a minute.
    """
    until = time.monotonic() + 60
    while time.monotonic() < until and process.poll() is None:
        try:
            if httpx.get(url, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise FailedError(f"the worker is not ready; see {log_of('whole')}")


async def post(url: str, events: int) -> list[float]:
    """Post sales at a steady rate, each signed with the time at which it is posted; give the seconds each took."""
    took: list[float] = []
    verify = StandardWebhooks(Secret("TILL_SECRET"))
    async with ClientBuilder().pool_max_idle_per_host(64).build() as client:

        async def one(number: int) -> None:
            name = f"{number:032x}"
            sale = {
                "event_id": name,
                "sku": f"SKU-{number * 7_919 % PRODUCTS}",
                "quantity": 1,
                "unit_price": 9.99,
                "store": "lon-1",
                "customer_id": f"c{number % 1000}",
                "occurred_at": datetime.now(UTC).isoformat(),
                "tags": {"channel": "web"},
            }
            body = orjson.dumps(sale)
            headers = {**verify.sign(name, body), "content-type": "application/json"}
            began = time.perf_counter()
            answer = await client.post(url).headers(headers).body_bytes(body).build().send()
            await answer.bytes()
            took.append(time.perf_counter() - began)
            if answer.status != 202:
                raise FailedError(f"the gateway answered {answer.status}")

        begun = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for number in range(events):
                if (wait := begun + number / RATE - time.perf_counter()) > 0:
                    await asyncio.sleep(wait)
                group.create_task(one(number))
    return took


def main(*, rounds: Annotated[int, typer.Option(min=1, help="How often it is measured.")] = 3) -> None:
    """Measure, print, write build/bench/e2e.json and the section of RESULTS.md, and say whether every bar is met."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing started here is left behind
    os.environ["TILL_SECRET"] = SECRET
    found: list[tuple[Report, list[float]]] = []
    try:
        with DeliverStage() as stage:
            stage.writer.fill_products(PRODUCTS, schema_id=3)
            found = [measure(stage) for _ in range(rounds)]
    except FailedError as error:
        talk.print(f"{error}", style="red")
        raise typer.Exit(1) from None
    rows: list[dict[str, Any]] = [
        {
            "case": f"{RATE:.0f} baskets/s",
            "contender": "Trunkline",
            "events_per_s": report.window_effects / report.window_s,
            "cpu_us_per_event": 1e6 * report.cpu_s / max(1, report.window_effects),
            "p50_ms": report.p50_ms,
            "p99_ms": report.p99_ms,
            "post_p50_ms": 1e3 * statistics.median(took),
            "post_p99_ms": 1e3 * statistics.quantiles(took, n=100)[98],
            "rss_mib": report.rss_mib,
            "order": "key",
            "lost": report.lost,
            "twice": report.duplicates,
            "strangers": report.strangers_cpu_s / report.window_s / (os.cpu_count() or 1),
        }
        for report, took in found
    ]
    (BUILD / "e2e.json").write_text(json.dumps(rows, indent=1) + "\n")
    p50, p99 = (statistics.median([row[name] or 0.0 for row in rows]) for name in ("p50_ms", "p99_ms"))
    heads = ("case", "events_per_s", "cpu_us_per_event", "p50_ms", "p99_ms", "post_p50_ms", "post_p99_ms", "lost")
    cells = [[f"{one:,.1f}" if isinstance(one := row[name], float) else f"{one}" for name in heads] for row in rows]
    strangers = max(row["strangers"] for row in rows)
    lines = [
        f"{datetime.now(UTC):%Y-%m-%d}. {results.machine()}. {versions()}.",
        "",
        f"Processes that take no part used up to {strangers:.0%} of the machine.",
        INTRODUCTION,
        "",
        *results.table(heads, cells),
        "",
        f"Medians: p50 {p50:.1f} ms (wanted ≤ {P50:g}), p99 {p99:.1f} ms (wanted ≤ {P99:g}).",
    ]
    out.print("\n".join(lines))
    if strangers > QUIET:
        out.print(f"[yellow]not quiet[/] others used up to {strangers:.0%} of the machine: measure again")
    results.keep("End to end (`make bench-e2e`)", lines)
    if p50 > P50 or p99 > P99 or any(row["lost"] or row["twice"] for row in rows):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
