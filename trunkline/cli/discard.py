"""`trunkline dlq discard`: the plan first, then what came of it."""

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from itertools import islice
from typing import Annotated, Any

import typer

from trunkline.cli.command import Why, person
from trunkline.cli.project import cluster_of, load_bus, looking, no_ledger, out, print_json, talk
from trunkline.cli.replay import told as whose
from trunkline.cli.replay import whom
from trunkline.cli.show import ROWS, many, moment, print_table, typed
from trunkline.errors import UsageError
from trunkline.flow.declare import Deliver, Reading
from trunkline.kafka.control import Control
from trunkline.kafka.events import Sender
from trunkline.kafka.topics import reading
from trunkline.ledger import deliveries
from trunkline.operate import browse, reprocess
from trunkline.operate import discard as operate
from trunkline.operate.discard import Known, Plan
from trunkline.operate.replay import has_key
from trunkline.settings import load


def discard(
    sink: Annotated[str, typer.Argument(metavar="SINK", help="A sink's name, or a flow's.")],
    event: Annotated[list[str] | None, typer.Argument(metavar="EVENT", help="Ids of events.")] = None,
    key: Annotated[list[str] | None, typer.Option("--key", help="All events of a key; may be repeated.")] = None,
    *,
    why: Why = "",
    run: Annotated[bool, typer.Option("--run", help="Do it; without, only the plan is printed.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Plan to give dead letters of a sink or a flow up, by event or key; --run carries it out.

    No replay sends them any more, and they hold back their key no longer, even where the letters have expired. That is
    final, and stands in the audit trail.
    """
    bus, settings = load_bus(), load()
    name = browse.flow_of(bus, sink)
    flow = reading(bus)[name]
    events, keys = event or [], key or []
    if not all((*events, *keys)) or not (events or keys):
        raise UsageError("say what to discard: ids of events, or --key KEY.")
    cluster, now = cluster_of(settings), datetime.now(UTC)
    with Control(cluster) as control, looking(settings) as db:
        late: list[Known] = []
        if not isinstance(flow, Deliver):
            writer = reprocess.taking_over(bus, flow, cluster) if run else None
            planned = operate.survey_made(bus, flow, control, events, keys)
            if writer is not None and planned.give_up:
                operate.settle(planned, bus, writer, who=person(), why=why, now=now)
        elif db is None:
            raise UsageError(no_ledger(settings, "what is delivered"))
        else:
            planned = operate.survey(bus, flow, control, db, events, digests(keys, control, flow))
            if run:
                with closing(Sender(cluster)) as sender:
                    late = operate.discard(planned, bus, flow, sender, db, who=person(), why=why, now=now)
    chose = [*(part for one in keys for part in ("--key", one)), *(["--why", why] if why else [])]
    command = typed("dlq", "discard", sink, ids=events, options=[*chose, "--run"])
    given = [one for one in planned.give_up if one not in late]
    if as_json:
        groups = {"discarded" if run else "discard": given, "nothing": [*planned.rest, *late]}
        found = {what: (as_data(one) for one in group) for what, group in groups.items()}
        counts = {"keys_freed": planned.freed, "keys_held": planned.held}
        print_json({**whom(flow), **found, **counts, "command": command if given and not run else None})
    else:
        for line in told(planned, flow, len(given), run=run):
            out.print(line, markup=False)
        if not run:
            if planned.give_up or planned.rest:
                out.print()
                print_table(("event", "origin", "class", "since", "state", "plan"), islice(rows(planned), ROWS))
            if (more := len(planned.give_up) + len(planned.rest) - ROWS) > 0:
                talk.print(f"… and {more:,} more: --json prints all.", markup=False)
            if given:
                talk.print(f"Nothing was discarded. Do it with: {command}", markup=False)
        if late:
            ended = f"{many(len(late), 'event')} came to another end meanwhile: `trunkline trace EVENT` says to which."
            talk.print(ended, markup=False)
    if late:
        raise typer.Exit(1)


def digests(keys: list[str], control: Control, flow: Deliver) -> dict[bytes, str]:
    """Give keys as the ledger keeps them, each with its name; one that letters show otherwise may be named so."""
    found = {deliveries.key_of(key.encode()): key for key in keys}
    if hidden := [key for key in keys if key.startswith("#") or "\\" in key]:
        for dead in browse.look(control, flow).dead:
            for key in hidden:
                if dead.key is not None and has_key(dead, [key]):
                    found.pop(deliveries.key_of(key.encode()), None)
                    found[dead.key] = key
    return found


def told(planned: Plan, flow: Reading, given: int, *, run: bool) -> Iterator[str]:
    """Say what is discarded, in counts."""
    yield f"{'Discarded' if run else 'Discard'} at {whose(flow)}: {many(given, 'event')}"
    if planned.rest:
        yield f"  {len(planned.rest):>6}  stay as they are: finished, under way, or forgotten"
    if planned.freed:
        which = "keys are" if planned.freed > 1 else "key is"
        yield f"  {planned.freed:>6}  {which} free {'now' if run else 'afterwards'}: workers see it within a second"
    if planned.held:
        which = "keys are" if planned.held > 1 else "key is"
        yield f"  {planned.held:>6}  {which} held back by other events still: `trunkline dlq ls` of the same name"


def rows(planned: Plan) -> Iterator[tuple[str, ...]]:
    """Give the events' rows of the table."""
    for what, group in (("discard", planned.give_up), ("nothing", planned.rest)):
        for one in group:
            origin = f"{one.entry.origin.partition}@{one.entry.origin.offset}"
            yield one.entry.event, origin, one.entry.kind or "-", moment(one.entry.at), one.stands, what


def as_data(one: Known) -> dict[str, Any]:
    """Give an event for programs."""
    topic, partition, offset = one.origin
    return {
        "event": one.entry.event,
        "source": one.entry.source,
        "origin": {"topic": topic, "partition": partition, "offset": offset},
        "class": one.entry.kind or None,
        "since": moment(one.entry.at),
        "state": one.stands,
    }
