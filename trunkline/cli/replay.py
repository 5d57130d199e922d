"""`trunkline dlq replay`: the plan first, then the run, then what came of it."""

import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from itertools import islice
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from trunkline.cli.project import cluster_of, load_bus, looking, no_ledger, out, print_json, talk
from trunkline.cli.show import ROWS, Curtain, called, curtain_of, print_table
from trunkline.errors import UsageError
from trunkline.flow.declare import (
    Bus,
    Deliver,
    Reading,
    dead_letters_of,
    flow_name,
    group_of,
    identity_of,
    sink_identity,
)
from trunkline.kafka import orders
from trunkline.kafka.cluster import Cluster
from trunkline.kafka.control import Control
from trunkline.kafka.events import Sender
from trunkline.kafka.topics import control_of, reading
from trunkline.ledger.database import Connection
from trunkline.ledger.deliveries import State
from trunkline.operate import browse, reprocess, targets
from trunkline.operate.browse import Dead
from trunkline.operate.replay import MOST_REPLAYS, Known, Plan, Progress, Replay, plan, survey
from trunkline.operate.reprocess import Reprocess
from trunkline.settings import load

SENT: dict[State | None, str] = {
    None: "dead, will be sent under the idempotency keys they had",
    State.PARKED: "parked, will be sent after what they wait for",
    State.AMBIGUOUS: "ambiguous: may have been applied, and the target without keys will be called again",
    State.INTENT: "being called, or were when a worker ended: sent again unless they turn out to be delivered",
}
FINISHED = {
    State.DONE: "are delivered already",
    State.SUPERSEDED: "are superseded: a later event of the key is delivered",
    State.DISCARDED: "are discarded",
}


def replay(
    sink: Annotated[str, typer.Argument(metavar="SINK", help="A sink's name, or a flow's.")],
    event: Annotated[list[str] | None, typer.Option("--event", help="An event's id; may be repeated.")] = None,
    key: Annotated[list[str] | None, typer.Option("--key", help="All events of a key; may be repeated.")] = None,
    rate: Annotated[str, typer.Option(help="How many records a second.")] = "50/s",
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for the ledger after the last record.")] = 120,
    *,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Send even what a later event of its key has superseded.")
    ] = False,
    run: Annotated[bool, typer.Option("--run", help="Do it; without, only the plan is printed.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Plan the replay of a sink's or a flow's dead letters, all or some, to it alone; --run carries it out.

    Events of a key are sent in their order. Of a key that is parked, what is parked meanwhile goes with it. A run exits
    with 0 when everything selected came to its end, else with 1.
    """
    bus, settings, pace = load_bus(), load(), per_second(rate)
    name = browse.flow_of(bus, sink)
    flow = reading(bus)[name]
    if overwrite and not (isinstance(flow, Deliver) and flow.to.writes == "latest"):
        raise UsageError(f'{told(flow)} does not declare writes="latest": all is sent to it, without --overwrite.')
    curtain = curtain_of(bus, dead_letters_of(identity_of(flow)))
    cluster, group = cluster_of(settings), group_of(bus, identity_of(flow))

    def planned_of(known: Known) -> Plan:
        events, keys = event or [], key or []
        return plan(known, events, keys, overwrite=overwrite, name=lambda dead: curtain.key_of(dead.raw_key))

    with Control(cluster) as control, looking(settings) as db:
        if isinstance(flow, Deliver) and db is None:
            raise UsageError(no_ledger(settings, "what is delivered"))
        if not run:
            chose = [part for one in event or [] for part in ("--event", one)]
            chose += [part for one in key or [] for part in ("--key", one)]
            chose += [*([] if rate == "50/s" else ["--rate", rate]), *(["--overwrite"] if overwrite else [])]
            command = shlex.join(["trunkline", "dlq", "replay", sink, *chose, "--run"])
            known = look(flow, bus, control, db)
            print_plan(planned_of(known), flow, Shown(control, flow, curtain), command, as_json=as_json)
            return
        if isinstance(flow, Deliver):
            assert db is not None
            planned = planned_of(survey(flow, control, db))
            tell_plan(planned, flow)
            if planned.send and not control.members(group):
                talk.print(f"No worker runs {name}: nothing can be delivered until `trunkline run` does.", markup=False)
            for line in hindrances(bus, name, flow, control, cluster) if planned.send else ():
                talk.print(line, markup=False)
            with closing(Sender(cluster)) as sender, bar(planned, flow) as tell:
                progress = Replay(flow, control, sender, db, rate=pace, wait=wait).run(planned, tell)
        else:
            if not control.members(group):
                raise UsageError(f"no worker runs {name}: what is sent would lie there. Start one: `trunkline run`.")
            again = Reprocess(bus, flow, control, cluster, rate=pace, wait=wait)
            planned = planned_of(reprocess.survey(control, bus, flow))
            tell_plan(planned, flow)
            with bar(planned, flow) as tell:
                progress = again.run(planned, tell)
        idle = bool(progress.open) and not control.members(group)
        print_report(planned, progress, flow, Shown(control, flow, curtain), idle=idle, as_json=as_json)
    if planned.refused or planned.under_way or not progress.complete:
        raise typer.Exit(1)


def hindrances(bus: Bus, name: str, flow: Deliver, control: Control, cluster: Cluster) -> Iterator[str]:
    """Say what keeps a sink from being called, and the command that ends it."""
    topic = control_of(bus)
    if topic not in control.topics([topic]):
        return
    held, now = orders.current(cluster, topic), datetime.now(UTC)
    sink, known_by = flow.to.name, sink_identity(flow.to)
    if (order := held.paused.get(known_by)) is not None:
        yield f"{sink} is paused by {order.by}: nothing is delivered until `trunkline sink resume {sink}`."
    for reason in dict.fromkeys(said.halted[name] for said in orders.running(held, [name], now) if name in said.halted):
        yield f"{sink} has halted, and nothing is delivered meanwhile: {reason}"
    for told in targets.troubled(targets.standings(bus, held, now)).get(name, ()):
        yield f"The target {told}: nothing is delivered meanwhile. See `trunkline target ls`."


def look(flow: Reading, bus: Bus, control: Control, db: Connection | None) -> Known:
    """Find out what is known of a flow's dead letters."""
    if isinstance(flow, Deliver):
        assert db is not None
        return survey(flow, control, db)
    return reprocess.survey(control, bus, flow)


def told(flow: Reading) -> str:
    """Say to whom letters of a flow are sent again: its sink, or itself."""
    return flow.to.name if isinstance(flow, Deliver) else flow_name(flow)


def done(flow: Reading) -> str:
    """Say in a word what has become of a letter whose replay has succeeded."""
    return "delivered" if isinstance(flow, Deliver) else "processed"


def tell_plan(planned: Plan, flow: Reading) -> None:
    """Say on the terminal what a run is about to do."""
    for line in summary(planned, flow):
        talk.print(line, markup=False)


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
def bar(planned: Plan, flow: Reading) -> Iterator[Callable[[Progress], None]]:
    """Show how far a run is."""
    waiting = "delivering" if isinstance(flow, Deliver) else "processing"
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bar(*columns, console=talk, transient=True) as shown:
        task = shown.add_task("sending", total=len(planned.send))

        def tell(progress: Progress) -> None:
            doing = f"sending, {len(progress.unsent)} left" if progress.unsent else waiting
            total = progress.ended + len(progress.open) + len(progress.unsent)
            shown.update(task, completed=progress.ended, total=total, description=doing)

        yield tell


def summary(planned: Plan, flow: Reading) -> Iterator[str]:
    """Say what a run will do, in counts."""
    if not planned.selected:
        return
    whom = called(flow.to.name, sink_identity(flow.to)) if isinstance(flow, Deliver) else flow_name(flow)
    yield f"Replay to {whom} alone: {planned.selected} selected"
    if not isinstance(flow, Deliver):
        if planned.send:
            yield f"  {len(planned.send):>6}  dead, will be processed: what they make has the ids it would have had"
        if planned.under_way:
            yield f"  {len(planned.under_way):>6}  are under way: a replay has sent them, and they are not taken yet"
        for end, what in ((State.DONE, "are processed already"), (State.DISCARDED, FINISHED[State.DISCARDED])):
            if count := sum(planned.known.states[dead.who] is end for dead in planned.finished):
                yield f"  {count:>6}  {what}"
        yield from refusals(planned)
        return
    for state, what in SENT.items():
        if count := planned.counts()[state] + (planned.counts()[State.DEAD] if state is None else 0):
            yield f"  {count:>6}  {what}"
    if planned.superseded:
        what = "of these will be superseded: a later event of the key is delivered (--overwrite sends them too)"
        yield f"  {len(planned.superseded):>6}  {what}"
    for state, what in FINISHED.items():
        if count := sum(planned.known.states[dead.who] is state for dead in planned.finished):
            yield f"  {count:>6}  {what}"
    yield from refusals(planned)
    if planned.keys:
        yield f"  {len(planned.keys):>6}  {'keys are' if len(planned.keys) > 1 else 'key is'} free again afterwards"


def refusals(planned: Plan) -> Iterator[str]:
    """Say what a run will not send for it would go round for ever."""
    if planned.refused:
        what = f"are refused: {MOST_REPLAYS} replays have failed, of them or of what they wait for"
        yield f"  {len(planned.refused):>6}  {what} (--event or --key replays them all the same)"


class Shown:
    """Shows events of a flow's dead letters; what their letters say is read when it is printed."""

    def __init__(self, control: Control, flow: Reading, curtain: Curtain) -> None:
        """Read from the flow's dead-letter topic, and hide what is sensitive."""
        self._control = control
        self._topic = dead_letters_of(identity_of(flow))
        self._curtain = curtain

    def data(
        self, group: Iterable[Dead], more: Callable[[Dead], dict[str, Any]] = lambda _: {}
    ) -> Iterator[dict[str, Any]]:
        """Give events for programs; `more` is what is known of one besides."""
        return (as_data(dead, reason, self._curtain) | more(dead) for dead, reason in self._reasons(group))

    def table(self, headings: Sequence[str], events: Iterable[tuple[Dead, tuple[str, ...]]]) -> None:
        """Print the first events, each with what is said of it."""
        first = list(islice(events, ROWS))
        reasons = self._reasons(dead for dead, _ in first)
        both = zip(reasons, first, strict=True)
        print_table(headings, [row(dead, reason, self._curtain, *what) for (dead, reason), (_, what) in both])

    def _reasons(self, group: Iterable[Dead]) -> Iterator[tuple[Dead, str]]:
        """Give each event with why it is dead."""
        for dead, one in browse.newest(self._control, self._topic, group):
            yield dead, "its letter has been deleted meanwhile" if one is None else one.letter.failure.message


def print_plan(planned: Plan, flow: Reading, show: Shown, command: str, *, as_json: bool) -> None:
    """Print what a run would do, and the command that does it."""
    states = planned.known.states

    def word(dead: Dead) -> str:
        if isinstance(flow, Deliver):
            return browse.STANDING[states.get(dead.who)]
        if dead.who in planned.known.under_way:
            return "under way"
        return "processed" if states.get(dead.who) is State.DONE else browse.STANDING[states.get(dead.who)]

    def standing(dead: Dead) -> dict[str, Any]:
        return {"state": word(dead)}

    def sent(dead: Dead) -> dict[str, Any]:
        overtaken = {"overtaken": dead.who in planned.known.overtaken} if isinstance(flow, Deliver) else {}
        return standing(dead) | overtaken

    if as_json:
        ended = {state: [one for one in planned.finished if states[one.who] is state] for state in FINISHED}
        groups: dict[str, Sequence[Dead]] = {
            "processed": ended[State.DONE],
            "discarded": ended[State.DISCARDED],
            "under_way": planned.under_way,
        }
        if isinstance(flow, Deliver):
            groups = {browse.STANDING[state]: group for state, group in ended.items()}
        print_json(
            {
                **whom(flow),
                "selected": planned.selected,
                "send": show.data(planned.send, sent),
                **{name: show.data(group, standing) for name, group in groups.items()},
                "refused": show.data(planned.refused, standing),
                "command": command if planned.send else None,
            }
        )
        return
    if not planned.selected:
        talk.print(f"{told(flow)} has no dead letters.", markup=False)
        return
    for line in summary(planned, flow):
        out.print(line, markup=False)
    out.print()
    headings = ("event", "key", "origin", "class", "replays", "state", "plan", "reason")
    nothing = (*planned.finished, *planned.under_way)
    decided = (("send", planned.send), ("nothing", nothing), ("refuse", planned.refused))
    show.table(headings, ((dead, (word(dead), what)) for what, group in decided for dead in group))
    if (more := planned.selected - ROWS) > 0:
        talk.print(f"… and {more:,} more: --event and --key choose some, --json prints all.", markup=False)
    if planned.send:
        talk.print(f"Nothing was sent. Run it with: {command}", markup=False)


def whom(flow: Reading) -> dict[str, Any]:
    """Name for programs whose letters are sent again."""
    return {"sink": flow.to.name} if isinstance(flow, Deliver) else {"sink": None, "flow": flow_name(flow)}


def print_report(planned: Plan, progress: Progress, flow: Reading, show: Shown, *, idle: bool, as_json: bool) -> None:
    """Print what came of a run; `idle` says that letters are open and that no worker is there to deliver them."""
    groups: dict[str, Sequence[Dead]] = {
        done(flow): progress.delivered,
        "superseded": progress.superseded,
        "discarded": progress.discarded,
        "dead again": progress.dead,
        "still parked": progress.parked,
        "still open": progress.open,
        "not sent": progress.unsent,
        "gone": progress.gone,
        "refused": planned.refused,
    }
    if not isinstance(flow, Deliver):
        groups["under way before"] = planned.under_way
    if as_json:
        found = {name.replace(" ", "_"): show.data(group) for name, group in groups.items()}
        print_json({"run": progress.run, **whom(flow), **found, "trouble": progress.trouble or None})
        return
    counts = ", ".join(f"{len(group)} {name}" for name, group in groups.items() if group) or "nothing to send"
    out.print(f"Replay {progress.run} to {told(flow)}: {counts}", markup=False)
    ended = (done(flow), "superseded", "discarded")
    left = {name: group for name, group in groups.items() if name not in ended and group}
    if left:
        headings = ("event", "key", "origin", "class", "replays", "now", "reason")
        show.table(headings, ((dead, (name,)) for name, group in left.items() for dead in group))
        if (more := sum(map(len, left.values())) - ROWS) > 0:
            talk.print(f"… and {more:,} more: `trunkline dlq ls` of the same name counts them by reason.", markup=False)
    if progress.gone:
        why = "the letters, or values that were too large for them, have been deleted"
        give_up = f": `trunkline dlq discard {told(flow)} EVENT` gives it up" if isinstance(flow, Deliver) else ""
        talk.print(f"What is gone cannot be sent any more: {why}{give_up}.", markup=False)
    if progress.trouble:
        talk.print(f"The run ended early: {progress.trouble}", markup=False)
    if isinstance(flow, Deliver) and (progress.open or progress.unsent):
        why = "no worker runs this flow; start one with `trunkline run`, then" if idle else "the run is over;"
        talk.print(f"What is open or not sent waits in the dead letters: {why} replay it again.", markup=False)
        return
    if progress.open:
        who = "as soon as a worker runs it" if idle else "when it comes to it"
        talk.print(f"What is open is sent: the flow takes it {who}, and no other replay sends it again.", markup=False)
    if progress.unsent:
        talk.print("What is not sent waits in the dead letters: replay it again.", markup=False)


def row(dead: Dead, reason: str, curtain: Curtain, *what: str) -> Sequence[str]:
    """Give an event's row of a table."""
    where, key = f"{dead.origin_partition}@{dead.origin_offset}", curtain.key_of(dead.raw_key) or "-"
    return (dead.id, key, where, dead.why.kind, str(dead.replays), *what, reason)


def as_data(dead: Dead, reason: str, curtain: Curtain) -> dict[str, Any]:
    """Give an event for programs."""
    topic, partition, offset = dead.origin
    return {
        "event": dead.id,
        "source": dead.source,
        "key": curtain.key_of(dead.raw_key),
        "origin": {"topic": topic, "partition": partition, "offset": offset},
        "class": dead.why.kind,
        "reason": reason,
        "replays": dead.replays,
    }
