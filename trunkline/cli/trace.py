"""`trunkline trace`: what happened to one event, from its source to every target."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from trunkline.cli.project import cluster_of, load_bus, looking, no_ledger, out, print_json, safe
from trunkline.cli.show import curtain_of, many, moment, typed
from trunkline.errors import TrunklineError, UsageError
from trunkline.flow.declare import Bus
from trunkline.kafka import orders
from trunkline.kafka.audit import Entry
from trunkline.kafka.control import Control
from trunkline.kafka.orders import Orders
from trunkline.kafka.topics import control_of
from trunkline.ledger.attempts import Attempt
from trunkline.ledger.deliveries import State
from trunkline.operate.browse import Opened
from trunkline.operate.status import hindrances
from trunkline.operate.trace import LOOKED_AT, Delivery, Node, Step, Trace, Tracer
from trunkline.settings import load


def trace(
    event: Annotated[str, typer.Argument(metavar="EVENT", help="The id of an event: a source's, or a derived one.")],
    *,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON list, of one event unless sources share the id.")
    ] = False,
) -> None:
    """Print every hop and attempt of an event: what it came of, what came of it, and where that stands now.

    Contents are shown by their digest alone.
    """
    if not event:
        raise UsageError("say which event: its id is empty.")
    bus, settings = load_bus(), load()
    cluster = cluster_of(settings)
    with Control(cluster) as control, looking(settings) as db:
        if db is None:
            raise UsageError(no_ledger(settings, "what became of events"))
        found = Tracer(bus, control, db).trace(event)
        flows = {flow for one in found for flow in waiting(one.node)}
        topic = control_of(bus)
        held = orders.current(cluster, topic) if flows and topic in control.topics([topic]) else Orders()
    if not found:
        raise TrunklineError(
            f"no event {event} is known: it never came, or it was finished longer ago than the ledger remembers."
        )
    if as_json:
        print_json([as_data(one, bus) for one in found])
        return
    for one in found:
        for above in one.above:
            for line in heading(above, bus):
                out.print(safe(line), markup=False)
        for line in told(one.node, bus):
            out.print(safe(line), markup=False)
    for flow, why in hindrances(bus, held, datetime.now(UTC)).items():
        for reason in why if flow in flows else ():
            out.print(safe(f"{flow}: {reason}"), markup=False)


def waiting(node: Node) -> Iterator[str]:
    """Name the flows at which an event, or something that came of it, has come to no end."""
    yield from (one.flow for one in node.deliveries if one.stands in ("waiting", "being retried"))
    for step in node.steps:
        if step.stands == "waiting":
            yield step.flow
        for made in step.made:
            yield from waiting(made)


def told(node: Node, bus: Bus) -> Iterator[str]:
    """Tell of an event and all that came of it."""
    yield from heading(node, bus)
    for step in node.steps:
        yield from (f"  {line}" for line in told_step(step, node.id, bus))
    for delivery in node.deliveries:
        yield from (f"  {line}" for line in told_delivery(delivery, node.id))


def heading(node: Node, bus: Bus) -> Iterator[str]:
    """Say which event it is and where it stands."""
    yield f"event {node.id} of {node.source}"
    if node.claim is not None:
        yield f"  received: {'published' if node.claim.published else 'being published'}"
    if node.event is None or node.record is None:
        yet = node.claim is not None and not node.claim.published
        yield f"  on {node.topic}, where its record is not found {'yet' if yet else 'any more'}"
        return
    record, key = node.record, curtain_of(bus, node.topic).key_of(node.record.key)
    place = f"{record.topic} partition {record.partition} offset {record.offset}"
    yield f"  {moment(record.timestamp)}  on {place}, key {'-' if key is None else key}"
    yield f"  happened {moment(node.event.time)}, {node.event.type or 'no event'}, content {node.payload[:12]}"


def told_step(step: Step, event: str, bus: Bus) -> Iterator[str]:
    """Tell what a flow of steps, or an agent, made of an event."""
    match step.stands:
        case "waiting":
            yield f"{step.flow}: {waits(step.before)}"
        case "unknown":
            yield f"{step.flow}: nothing is known, without the record"
        case "done":
            count = len(step.made)
            dead = ", a dead letter" if step.letters else ""
            filtered = ": filtered, or no route took it" if step.kind == "process" else " so far"
            none = "" if count or dead else filtered
            none = none if step.settled else ""
            yield f"{step.flow}: done, {many(count, 'event')} made of it{dead}{none}"
    yield from (f"  {line}" for letter in step.letters for line in told_letter(letter))
    yield from (f"  {moment(entry.at)}  {said_of_outcome(entry)}" for entry in step.outcomes)
    if step.letters and (not step.outcomes or step.outcomes[-1].state == State.DEAD.name):
        yield f"  What to do: {typed('dlq', 'show', step.flow, ids=[event])}"
    for node in step.made:
        yield from (f"  {line}" for line in told(node, bus))
    if not step.settled:
        yield f"  only {LOOKED_AT} records of each topic were looked at: there may be more"


def told_delivery(delivery: Delivery, event: str) -> Iterator[str]:
    """Tell what became of an event at a sink, in the order of time, and where it stands."""
    moments = [(attempt.at, said_of_attempt(attempt)) for attempt in delivery.failed]
    moments += [(entry.at, said_of_outcome(entry)) for entry in delivery.outcomes]
    yield f"{delivery.sink} ({delivery.flow}): {standing(delivery, event)}"
    yield from (f"  {moment(at)}  {said}" for at, said in sorted(moments))
    yield from (f"  {line}" for letter in delivery.letters for line in told_letter(letter))


def waits(before: int) -> str:
    """Say that an event waits, and for how many others."""
    return f"waits, up to {many(before, 'record')} come first" if before else "waits, and is next"


def standing(delivery: Delivery, event: str) -> str:
    """Say in words where an event stands at a sink, and what to do if anything is."""
    tries = many(delivery.attempts, "attempt")
    match delivery.stands:
        case "delivered" | "superseded" | "discarded" | "being called":
            said = f"{delivery.stands} at {moment(delivery.since)}, {tries}"
        case "dead" | "ambiguous":
            said = f"{delivery.stands} since {moment(delivery.since)}, {tries}"
        case "parked":
            behind = f" behind event {delivery.behind}" if delivery.behind else ""
            said = f"parked{behind} since {moment(delivery.since)}"
        case "being retried":
            said = f"being retried, {tries} so far"
        case "waiting" if delivery.behind:
            said = f"waits behind event {delivery.behind}, which is dead"
        case "waiting":
            said = waits(delivery.before)
        case "forgotten":
            said = "finished, longer ago than the ledger remembers"
        case "unknown":
            said = "nothing is known"
    if delivery.replaying:
        return f"{said}; a replay is under way"
    if delivery.stands in ("dead", "ambiguous", "parked"):
        return f"{said}. What to do: {typed('dlq', 'show', delivery.sink, ids=[event])}"
    return said


def said_of_attempt(attempt: Attempt) -> str:
    """Say what came of one attempt."""
    status = "no answer" if attempt.status is None else str(attempt.status)
    return f"{status} after {attempt.seconds:.3f} s: {attempt.words}"


def said_of_outcome(entry: Entry) -> str:
    """Say what the audit trail has."""
    state = {"DONE": "delivered" if entry.sink else "processed"}.get(entry.state, entry.state.lower())
    by = f" in replay {entry.run}" if entry.run else ""
    who = f", by {entry.who}{f': {entry.why}' if entry.why else ''}" if entry.who else ""
    return f"{state}{f', {entry.kind}' if entry.kind else ''}{by}{who}"


def told_letter(dead: Opened) -> Iterator[str]:
    """Say where a dead letter lies."""
    record, failure = dead.record, dead.letter.failure
    where = f"{record.topic} partition {record.partition} offset {record.offset}"
    yield f"{moment(failure.at)}  letter on {where}, {failure.kind}: {failure.message}"


def as_data(found: Trace, bus: Bus) -> dict[str, Any]:
    """Give a trace for programs."""
    return {"above": [node_data(node, bus) for node in found.above], "event": node_data(found.node, bus)}


def node_data(node: Node, bus: Bus) -> dict[str, Any]:
    """Give an event for programs."""
    record, event = node.record, node.event
    return {
        "source": node.source,
        "id": node.id,
        "type": None if event is None else event.type,
        "time": None if event is None else moment(event.time),
        "key": None if record is None else curtain_of(bus, node.topic).key_of(record.key),
        "content": node.payload or None,
        "claim": None if node.claim is None else "published" if node.claim.published else "pending",
        "topic": node.topic,
        "partition": None if record is None else record.partition,
        "offset": None if record is None else record.offset,
        "published_at": None if record is None else moment(record.timestamp),
        "steps": [
            {
                "flow": step.flow,
                "stands": step.stands,
                "before": step.before,
                "made": [node_data(made, bus) for made in step.made],
                "letters": [letter_data(letter) for letter in step.letters],
                "outcomes": [outcome_data(entry) for entry in step.outcomes],
                "settled": step.settled,
            }
            for step in node.steps
        ],
        "deliveries": [delivery_data(delivery) for delivery in node.deliveries],
    }


def delivery_data(delivery: Delivery) -> dict[str, Any]:
    """Give what became of an event at a sink for programs."""
    return {
        "flow": delivery.flow,
        "sink": delivery.sink,
        "stands": delivery.stands,
        "since": None if delivery.since is None else moment(delivery.since),
        "attempts": delivery.attempts,
        "failed": [
            {"at": moment(one.at), "status": one.status, "seconds": one.seconds, "words": one.words}
            for one in delivery.failed
        ],
        "outcomes": [outcome_data(entry) for entry in delivery.outcomes],
        "letters": [letter_data(letter) for letter in delivery.letters],
        "before": delivery.before,
        "behind": delivery.behind or None,
        "replaying": delivery.replaying,
    }


def outcome_data(entry: Entry) -> dict[str, Any]:
    """Give what the audit trail has for programs."""
    return {
        "at": moment(entry.at),
        "state": entry.state.lower(),
        "class": entry.kind or None,
        "run": entry.run or None,
        "who": entry.who or None,
        "why": entry.why or None,
    }


def letter_data(dead: Opened) -> dict[str, Any]:
    """Give a dead letter for programs."""
    failure = dead.letter.failure
    return {
        "topic": dead.record.topic,
        "partition": dead.record.partition,
        "offset": dead.record.offset,
        "at": moment(failure.at),
        "class": failure.kind,
        "reason": failure.message,
        "replays": dead.letter.replays,
    }
