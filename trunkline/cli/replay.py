"""`trunkline dlq replay`: the plan first, then the run, then what came of it."""

import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from trunkline.cli.project import bootstrap, load_bus, looking, out, print_json, talk
from trunkline.cli.show import print_table
from trunkline.errors import UsageError
from trunkline.flow.declare import group_of
from trunkline.kafka.control import Control
from trunkline.kafka.events import Sender
from trunkline.operate import browse
from trunkline.operate.browse import Dead, sink_of
from trunkline.operate.replay import MOST_REPLAYS, Plan, Progress, Replay, key_of, plan, select
from trunkline.settings import load


def replay(
    sink: Annotated[str, typer.Argument(metavar="SINK", help="A sink's name, or its flow's.")],
    event: Annotated[list[str] | None, typer.Option("--event", help="An event's id; may be repeated.")] = None,
    key: Annotated[list[str] | None, typer.Option("--key", help="All events of a key; may be repeated.")] = None,
    rate: Annotated[str, typer.Option(help="How many records a second.")] = "50/s",
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for the ledger after the last record.")] = 120,
    *,
    run: Annotated[bool, typer.Option("--run", help="Do it; without, only the plan is printed.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Plan the replay of a sink's dead letters, all or some, to that sink alone; --run carries it out.

    A run exits with 0 when everything selected is delivered, else with 1.
    """
    bus, settings, pace = load_bus(), load(), per_second(rate)
    flow = browse.flow_of(bus, sink)
    if (name := sink_of(bus, flow)) is None:
        raise UsageError(f"{flow} is a flow of steps; only the dead letters of a sink can be replayed.")
    address = bootstrap(settings)
    with Control(address) as control, looking(settings) as db:
        if db is None:
            raise UsageError(
                f"there is no ledger at {settings.ledger.path}, which says what is delivered. Run this where the "
                "workers run, or set TRUNKLINE_LEDGER__PATH."
            )
        chosen = select(browse.look(control, flow).dead, event or [], key or [])
        places = browse.places(name, chosen)
        planned = plan(chosen, places, browse.rows(db, places))
        if not run:
            chose = [part for one in event or [] for part in ("--event", one)]
            chose += [part for one in key or [] for part in ("--key", one)]
            command = ["trunkline", "dlq", "replay", sink, *chose, *([] if rate == "50/s" else ["--rate", rate])]
            print_plan(planned, name, shlex.join([*command, "--run"]), as_json=as_json)
            return
        if planned.send and not control.members(group_of(bus, flow)):
            talk.print(f"No worker runs {flow}: nothing can be delivered until `trunkline run` does.", markup=False)
        with closing(Sender(address)) as sender, bar(planned) as tell:
            progress = Replay(flow, name, control, sender, db, pace, wait).run(planned, tell)
        idle = bool(progress.open) and not control.members(group_of(bus, flow))
    print_report(planned, progress, name, idle=idle, as_json=as_json)
    if planned.refused or not progress.complete:
        raise typer.Exit(1)


def per_second(rate: str) -> float:
    """Read a rate such as 50/s.

    Raises:
        UsageError: it is none.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(?:/s)?", rate)
    if match is None or not float(match[1]):
        raise UsageError(f"--rate {rate} is no rate. Write a number of records a second, such as 50/s.")
    return float(match[1])


@contextmanager
def bar(planned: Plan) -> Iterator[Callable[[Progress], None]]:
    """Show how far a run is."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bar(*columns, console=talk, transient=True) as shown:
        task = shown.add_task("sending", total=len(planned.send))

        def tell(progress: Progress) -> None:
            ended = len(progress.delivered) + len(progress.dead)
            doing = f"sending, {len(progress.unsent)} left" if progress.unsent else "delivering"
            shown.update(task, completed=ended, description=doing)

        yield tell


def print_plan(planned: Plan, sink: str, command: str, *, as_json: bool) -> None:
    """Print what a run would do, and the command that does it."""
    if as_json:
        print_json(
            {
                "sink": sink,
                "selected": planned.selected,
                "send": [as_data(dead) for dead in planned.send],
                "delivered": [as_data(dead) for dead in planned.delivered],
                "refused": [as_data(dead) for dead in planned.refused],
                "command": command if planned.send else None,
            }
        )
        return
    if not planned.selected:
        talk.print(f"{sink} has no dead letters.", markup=False)
        return
    out.print(f"Replay to {sink} alone: {planned.selected} selected", markup=False)
    out.print(f"  {len(planned.send):>6}  will be sent, under the idempotency keys they had")
    if planned.delivered:
        out.print(f"  {len(planned.delivered):>6}  are delivered already")
    if planned.refused:
        out.print(f"  {len(planned.refused):>6}  are refused: {MOST_REPLAYS} replays have failed")
    out.print()
    headings = ("event", "key", "origin", "class", "replays", "plan", "reason")
    decided = (("send", planned.send), ("delivered", planned.delivered), ("refuse", planned.refused))
    print_table(headings, [row(dead, what) for what, group in decided for dead in group])
    if planned.send:
        talk.print(f"Nothing was sent. Run it with: {command}", markup=False)


def print_report(planned: Plan, progress: Progress, sink: str, *, idle: bool, as_json: bool) -> None:
    """Print what came of a run; `idle` says that letters are open and that no worker is there to deliver them."""
    groups = {
        "delivered": progress.delivered,
        "dead again": progress.dead,
        "still open": progress.open,
        "not sent": progress.unsent,
        "refused": planned.refused,
    }
    if as_json:
        found = {name.replace(" ", "_"): [as_data(dead) for dead in group] for name, group in groups.items()}
        print_json({"run": progress.run, "sink": sink, **found, "trouble": progress.trouble or None})
        return
    counts = ", ".join(f"{len(group)} {name}" for name, group in groups.items() if group) or "nothing to send"
    out.print(f"Replay {progress.run} to {sink}: {counts}", markup=False)
    if failed := [(dead, name) for name, group in groups.items() if name != "delivered" for dead in group]:
        print_table(("event", "key", "origin", "class", "replays", "now", "reason"), [row(*one) for one in failed])
    if progress.trouble:
        talk.print(f"The run ended early: {progress.trouble}", markup=False)
    if progress.open or progress.unsent:
        why = "no worker runs this flow; start one with `trunkline run`, then" if idle else "the run is over;"
        talk.print(f"What is open or not sent waits in the dead letters: {why} replay it again.", markup=False)


def row(dead: Dead, what: str) -> Sequence[str]:
    """Give an event's row of a table."""
    origin, failure = dead.letter.origin, dead.letter.failure
    where = f"{origin.partition}@{origin.offset}"
    return (dead.event.id, key_of(dead) or "-", where, failure.kind, str(dead.letter.replays), what, failure.message)


def as_data(dead: Dead) -> dict[str, Any]:
    """Give an event for programs."""
    origin, failure = dead.letter.origin, dead.letter.failure
    return {
        "event": dead.event.id,
        "source": dead.event.source,
        "key": key_of(dead),
        "origin": {"topic": origin.topic, "partition": origin.partition, "offset": origin.offset},
        "class": failure.kind,
        "reason": failure.message,
        "replays": dead.letter.replays,
    }
