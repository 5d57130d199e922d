"""Bytes, seconds and counts that the pages tell are those of the code."""

from datetime import timedelta
from pathlib import Path

import pytest

from trunkline import Breaker, requests
from trunkline.avro import limits as avro
from trunkline.engine import cache, cadence, held, limits, passing, session, tables, watchdog
from trunkline.engine.dispatch import Caps
from trunkline.flow import composite, transform
from trunkline.formats import plain
from trunkline.gateway import app, protocol
from trunkline.http import pool, tokens, transport
from trunkline.kafka import events, orders
from trunkline.kafka.topics import LETTERS_GONE, LETTERS_KEPT
from trunkline.ledger import sqlite

KIB, MIB = 1024, 1024 * 1024
MANY = 100 * LETTERS_GONE / timedelta(seconds=1)
USUAL = Breaker()

TOLD = {
    "sources": [
        f"A body has at most {app.LARGEST // MIB} MiB",
        f"the body takes longer than {app.PATIENCE:g} s, has more than {app.LARGEST // MIB} MiB",
        f"take longer than {protocol.HEAD_SECONDS:g} s or have more than {protocol.LARGEST_HEAD // KIB} KiB",
        f"the process has {protocol.MOST:,} connections already",
        f"{plain.DEEPEST} levels, {plain.MOST:,} elements and attributes",
    ],
    "targets": [
        f"{plain.DEEPEST} levels, {plain.MOST:,} elements, {plain.LARGEST // MIB} MiB",
        f"with pauses of at most {tokens.LONGEST:g} seconds",
        f"(at most {composite.LONGEST // KIB} KiB, as it is",
        f"no longer than one call may ({transport.DEADLINE:g} s)",
        f"Each run has {transport.DEADLINE:g} s",
        f"which its watchdog ends after {watchdog.SILENT:g} s",
        f"the same for {limits.FIRST_STOP:g} s, then 2, 4 … up to {limits.LONGEST_STOP:g}",
        f"`Breaker(failures={USUAL.failures}, pause=timedelta(seconds={USUAL.pause.seconds}), probes={USUAL.probes})`",
        f"so it is left after {transport.IDLE:g} s",
        f"is asked after {transport.SILENCE:g} s",
        f"again after {pool.TRUST:g} s",
        f"control character, {requests.LONGEST // KIB} KiB at most",
        f"{transport.READ // MIB} MiB read after decompression, {transport.KEPT // KIB} KiB kept",
    ],
    "processing": [
        f"{session.BATCH:,} (or {session.BATCH_BYTES // MIB} MiB of output)",
        f"begins {cadence.REST * 1000:g} ms after",
        f"makes {transform.MOST:,} records at most",
        f"up to {passing.WIDTH} events at once",
        f"within the session ({events.SESSION_SECONDS} s)",
        f"When {held.MOST} events of one partition wait",
        f"kept decoded, up to {2 * tables.DECODED // MIB} MiB",
        f"remembers {2 * cache.MOST:,} of them at most",
    ],
    "delivery": [
        f"said nothing for {orders.LIVE.seconds} seconds",
        f"Rows go {LETTERS_GONE.days} days after the last write",
        f"a dead letter is kept for {LETTERS_KEPT.days}",
    ],
    "running": [
        f"90 bytes a delivery in SQLite, 240 in PostgreSQL, for {LETTERS_GONE.days} days",
        f"100 a second are {MANY * 90 / 1e9:.0f} and {MANY * 240 / 1e9:.0f} GB",
        f"cut to {sqlite.LARGEST_LOG // MIB} MB",
        f"no broker or ledger for {app.SILENT:g} seconds",
    ],
    "operating": [f"acknowledged anything for {app.SILENT:g} seconds"],
    "promise": [f"until {Caps().lane_events:,} of its own events wait"],
    "schemas": [f"larger than {avro.LARGEST // KIB} KiB, deeper than {avro.DEEPEST} levels"],
}


@pytest.mark.parametrize("page", TOLD)
def test_what_a_page_tells_in_figures_is_so(page: str) -> None:
    text = " ".join(Path(f"docs/{page}.md").read_text().split())
    for told in TOLD[page]:
        assert told in text, f"docs/{page}.md: {told}"
