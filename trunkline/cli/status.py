"""How every flow stands, at one glance."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Annotated

import typer

from trunkline.cli.project import cluster_of, load_bus, looking, no_ledger, print_json, talk
from trunkline.cli.show import many, moment, print_table, span, typed
from trunkline.cli.sink import holder, tell_mixed, veiled
from trunkline.errors import Halt
from trunkline.kafka import orders
from trunkline.kafka.control import Control
from trunkline.kafka.events import START
from trunkline.kafka.orders import Orders
from trunkline.kafka.retention import ALARMING
from trunkline.kafka.topics import control_of
from trunkline.ledger import identity, reach
from trunkline.ledger.trust import Fine, state_of_ledger
from trunkline.operate.leaving import left
from trunkline.operate.status import Standing, standings
from trunkline.settings import load

BASE = ("flow", "kind", "state", "lag", "behind", "last progress", "delivered", "dead letters")
FEW = 4
"""Flows that are named before what is the same for many."""
LITTLE = 2**30
"""Bytes that the ledger's disk has left when a person has to know; the alert LedgerDiskNearlyFull has the same."""
RARE = ("parked", "ambiguous", "superseded", "discarded", "expired")
"""Columns that are only shown when a flow has any."""


def status(*, as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False) -> None:
    """Print how every flow stands, what needs a person first: workers, lag, last progress, dead letters."""
    bus, settings = load_bus(), load()
    cluster = cluster_of(settings)
    with Control(cluster) as control, looking(settings) as db:
        topic = control_of(bus)
        held = orders.current(cluster, topic) if topic in control.topics([topic]) else Orders()
        found = [
            replace(one, held_up=veiled(one.held_up, bus))
            for one in standings(bus, control, db, held, datetime.now(UTC))
        ]
        gone = [] if db is None else left(bus, control, db)
        blind = db is None and any(one.kind == "deliver" and one.progress for one in found)
        lost = Fine() if db is None else state_of_ledger(identity.read(db), held.ledger, {}, {})
    if as_json:
        print_json([{**asdict(one), "progress": one.progress and one.progress.isoformat()} for one in found])
        return
    rare = [name for name in RARE if any(getattr(one, name) for one in found)]
    print_table((*BASE, *rare), [(*row(one), *(count(getattr(one, name)) for name in rare)) for one in found])
    told: dict[str, list[str]] = {}
    idle = sum(map(unrun, found)) > FEW
    for one in found:
        for line in alarms(one, idle=idle):
            told.setdefault(line, []).append(one.flow)
    for line, flows in told.items():
        talk.print(f"{few(flows)}: {line}", markup=False)
    ledger = None if db is None else reach(settings.ledger)
    if ledger is not None and (free := ledger.free()) is not None and free < LITTLE:
        talk.print(
            f"trunkline: the disk of {ledger.name} has {free / 2**20:,.0f} MiB left; when it is full, "
            "nothing is delivered. Make room.",
            markup=False,
        )
    if isinstance(lost, Halt) and not any(one.halted for one in found):  # a worker that runs says it itself
        talk.print(f"trunkline: what is delivered and what is dead is not known here: {lost}", markup=False)
    if blind:
        talk.print(f"trunkline: {no_ledger(settings, 'what is delivered and what is dead')}", markup=False)
    for each in gone:
        talk.print(str(each), markup=False)
    tell_mixed(held)


def row(one: Standing) -> tuple[str, ...]:
    """Give a flow's row of the table."""
    reads = one.workers is not None
    return (
        one.flow,
        one.kind,
        state(one),
        f"{one.lag}" if reads else "-",
        span(one.behind) if reads else "-",
        moment(one.progress),
        count(one.delivered),
        "many" if one.crowded else count(one.dead),
    )


def few(names: Sequence[str]) -> str:
    """Name some of many."""
    return ", ".join(names if len(names) <= FEW + 1 else [*names[:FEW], f"{len(names) - FEW} more"])


def count(many: int | None) -> str:
    """Write a count; a dash where nothing is counted."""
    return "-" if many is None else str(many)


def unrun(one: Standing) -> bool:
    """Say whether records wait for a flow that nobody runs."""
    return one.workers == 0 and bool(one.lag) and one.started and not one.missing


def alarms(one: Standing, *, idle: bool = False) -> Iterator[str]:
    """Say what a person should do something about; `idle`: so many flows run nowhere that all are to be started."""
    if one.gone:
        yield (
            f"{one.gone} records of {one.topic} were deleted before they were read; start its workers again with "
            f"{START}, which says where to go on."
        )
    if one.unread > ALARMING:
        yield (
            f"its oldest unread record has used {one.unread:.0%} of the time for which {one.topic} keeps records; "
            "what is not read by then is deleted."
        )
    for told in one.notices:
        yield f"the target {told}."
    for told in one.targets:
        yield f"the target {told}: its events wait and lose nothing. See `trunkline target ls`."
    for told in one.unused:
        yield f"it leaves {told}: what one leaves is nobody else's. Give each the weight that it needs."
    if one.paused:
        why = f" ({one.paused_why})" if one.paused_why else ""
        yield f"paused by {one.paused}{why}, and calls nobody until then: trunkline sink resume {one.flow}."
    for reason in one.halted:
        yield f"halted: {reason}"
    for reason in one.waits:
        yield f"waits, and tries again: {reason}."
    if one.crowded:
        yield f"too many dead letters to count at a glance: trunkline dlq ls {one.flow}."
    if unrun(one):
        what = "trunkline run" if idle else f"trunkline run {one.flow}"
        yield f"nobody runs it: {what}; why its last worker ended is in that one's log."
    for full in one.held_up:
        fails = ""
        if full.event is not None:
            skip = typed("sink", "skip", one.flow, ids=[full.event])
            fails = f": event {full.event} fails again and again. Make it a dead letter: {skip}"
        yield f"{full.topic} partition {full.partition} is held up by {holder(full)}{fails}."


def state(one: Standing) -> str:
    """Say in a few words what a flow does, and what to do when it does nothing."""
    if one.missing:
        return f"{many(len(one.missing), 'topic')} missing: trunkline topics apply"
    if one.workers is None:
        return "waits" if one.waits else "-"
    if not one.started:
        return "not started: trunkline run --start"
    if one.paused:
        return f"paused by {one.paused}"
    if one.halted:
        return "halted"
    if one.waits:
        return "waits"
    return f"{one.workers} worker{'s' if one.workers != 1 else ''}" if one.workers else "no worker"
