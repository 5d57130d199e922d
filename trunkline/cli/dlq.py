"""Dead letters: see what could not be delivered and why, and replay it to the sink that failed."""

import shlex
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from itertools import islice
from typing import Annotated, Any

import typer

from trunkline.cli import discard, replay
from trunkline.cli.project import Json, cluster_of, load_bus, looking, no_ledger, out, print_json, safe, talk
from trunkline.cli.show import ROWS, called, curtain_of, hex_start, many, moment, print_table
from trunkline.deadletter import Kind
from trunkline.flow.declare import Bus, Deliver, dead_letters_of, identity_of, schemas_of, sink_identity
from trunkline.kafka.control import Control
from trunkline.kafka.registry import registry_of
from trunkline.kafka.topics import reading
from trunkline.ledger.database import Connection
from trunkline.ledger.deliveries import FINAL, State
from trunkline.operate import browse, reprocess
from trunkline.operate.browse import Dead, Letters, Opened
from trunkline.operate.replay import MOST_REPLAYS, select
from trunkline.settings import load

app = typer.Typer(no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="SINK", help="A sink's name, or a flow's.")]

CAUSES = 10
"""Reasons that are counted one by one."""

MEANING: dict[Kind, str] = {
    "permanent": "refused",
    "exhausted": "did not take",
    "unknown": "was sent, and never answered for,",
    "poison": "cannot read",
    "parked": "was not asked for",
    "skipped": "was told to skip",
}


@app.command("ls")
def list_letters(
    sink: Annotated[str | None, typer.Argument(metavar="SINK", help="A sink's name, or a flow's.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many events of SINK a table has at most.")] = ROWS,
    *,
    as_json: Json = False,
) -> None:
    """Print where dead letters lie; with SINK, the events there, the newest failure first, those that wait in front.

    Where there are more than the table has, they are counted by why they died. JSON has all of them.
    """
    bus, settings = load_bus(), load()
    with Control(cluster_of(settings)) as control, looking(settings) as db:
        if sink is not None:
            name = browse.flow_of(bus, sink)
            letters = browse.look(control, reading(bus)[name])
            view = View(bus, name, letters, control, db)
            print_letters(view, control, limit, as_json=as_json)
            if letters.dead and not view.known:
                talk.print(f"trunkline: {no_ledger(settings, SINCE)}", markup=False)
            return
        topics = {name: dead_letters_of(identity_of(flow)) for name, flow in reading(bus).items()}
        known = control.topics(topics.values())
        found: list[dict[str, Any]] = []
        rows: list[dict[str, Any]] = []
        for name, flow in reading(bus).items():
            if topics[name] in known and (letters := browse.look(control, flow)).dead:
                view = View(bus, name, letters, control, db)
                found.append(summary(view))
                rows.append(found[-1] | {"sink": view.known_as, "flow": called(name, view.identity)})
    if as_json:
        print_json(found)
    elif found:
        headings = ("sink", "flow", "events", "letters", "open", "done since")
        print_table(headings, [["-" if one[cell] is None else str(one[cell]) for cell in COUNTED] for one in rows])
    else:
        talk.print("No dead letters.")
    if absent := [topic for topic in topics.values() if topic not in known]:
        gone = "Run `trunkline topics apply`; what they held is gone."
        talk.print(f"Not there: {', '.join(absent)}. {gone}", markup=False)
    if any(one["open"] is None for one in found):
        talk.print(f"trunkline: {no_ledger(settings, SINCE)}", markup=False)


SINCE = "what was delivered since"
COUNTED = ("sink", "flow", "events", "letters", "open", "delivered")


class View:
    """The dead letters of one flow as they are shown: what is known of each now, and what each waits for."""

    def __init__(self, bus: Bus, name: str, letters: Letters, control: Control, db: Connection | None) -> None:
        flow = reading(bus)[name]
        self.name = name
        self.identity = identity_of(flow)
        self.sink = browse.sink_of(bus, name)
        self.known_as = called(flow.to.name, sink_identity(flow.to)) if isinstance(flow, Deliver) else "-"
        self.topic = dead_letters_of(self.identity)
        self.letters = letters
        self.curtain = curtain_of(bus, self.topic)
        self.states: dict[tuple[str, str], State | None] = {dead.who: None for dead in letters.dead}
        self.behind: dict[tuple[str, str], Dead] = {}
        self.known = db is not None or not isinstance(flow, Deliver)
        """Whether anybody can tell what has become of the letters since."""
        self.under_way: set[tuple[str, str]] = set()
        """What a replay has sent to a flow that calls no target, and that is not taken yet."""
        if isinstance(flow, Deliver):
            states = browse.states(db, flow, letters.dead)
            self.states = {dead.who: state for dead, state in zip(letters.dead, states, strict=True)}
            self.behind = browse.behind(letters.dead, states)
        else:
            done, self.under_way = reprocess.standing(control, bus, flow, letters.dead)
            self.states |= done

    def finished(self, dead: Dead) -> bool:
        """Say whether nothing is left to do for an event."""
        return self.states[dead.who] in FINAL

    def word(self, dead: Dead) -> str:
        """Say in a word how an event stands now."""
        if not self.known:
            return "unknown"
        if dead.who in self.under_way:
            return "under way"
        if self.sink is None and self.states[dead.who] is State.DONE:
            return "processed"
        return browse.STANDING[self.states[dead.who]]

    def standing(self, dead: Dead) -> str:
        """Say how an event stands now."""
        if (head := self.behind.get(dead.who)) is not None:
            return f"parked behind {head.id}"
        return self.word(dead)

    def waiting(self, dead: Dead) -> int:
        """Count the events that are parked behind another."""
        return sum(head is dead for head in self.behind.values())


def summary(view: View) -> dict[str, Any]:
    """Give what a flow's dead letters come to; None for what nobody knows."""
    counts = Counter(view.states.values())
    standing = {
        "open": sum(not view.finished(dead) for dead in view.letters.dead),
        "parked": counts[State.PARKED],
        "ambiguous": counts[State.AMBIGUOUS],
        "delivered": counts[State.DONE],
    }
    return {
        "sink": view.sink or "-",
        "flow": view.name,
        "events": len(view.letters.dead),
        "letters": sum(dead.letters for dead in view.letters.dead),
        **(standing if view.known else dict.fromkeys(standing)),
    }


def print_letters(view: View, control: Control, limit: int, *, as_json: bool) -> None:
    """Print the events of one flow's dead letters."""
    if as_json:
        letters = browse.opened(control, view.topic, view.letters.dead)
        print_json(as_data(dead, one, view) for dead, one in letters)
    elif view.letters.dead:
        more = len(view.letters.dead) - limit
        if more > 0:
            print_table(("events", "open", "class", "status", "reason"), causes(view))
            out.print()
        headings = ("failed at", "event", "key", "class", "attempts", "status", "letters", "state", "reason")
        letters = browse.opened(control, view.topic, islice(in_front(view), limit))
        print_table(headings, [row(dead, one, view) for dead, one in letters])
        if more > 0:
            talk.print(f"… and {more:,} more: --limit shows more of them, --json prints all.", markup=False)
    else:
        talk.print(f"{view.name} has no dead letters.", markup=False)
    if view.letters.foreign:
        talk.print(f"{view.letters.foreign} records on {view.topic} are no dead letters of ours.", markup=False)


def in_front(view: View) -> Iterable[Dead]:
    """Give the events that wait for a person, and after them those that are finished."""
    yield from (dead for dead in view.letters.dead if not view.finished(dead))
    yield from (dead for dead in view.letters.dead if view.finished(dead))


def causes(view: View) -> list[tuple[str, ...]]:
    """Count events by why they are dead; those of rare reasons together."""
    events = Counter(dead.why for dead in view.letters.dead)
    waiting = Counter(dead.why for dead in view.letters.dead if not view.finished(dead))
    told: list[tuple[str, ...]] = [
        (str(count), str(waiting[why]) if view.known else "-", why.kind, dash(why.status), why.reason)
        for why, count in events.most_common(CAUSES)
    ]
    if rare := events.most_common()[CAUSES:]:
        open_ = str(sum(waiting[why] for why, _ in rare)) if view.known else "-"
        told.append((str(sum(count for _, count in rare)), open_, "-", "-", many(len(rare), "other reason")))
    return told


def dash(value: object) -> str:
    """Write a value, or a dash for none."""
    return "-" if value is None else str(value)


def row(dead: Dead, one: Opened, view: View) -> tuple[str, ...]:
    """Give an event's row of the table."""
    failure = one.letter.failure
    return (
        moment(failure.at),
        dead.id,
        view.curtain.key_of(dead.raw_key) or "-",
        failure.kind,
        str(failure.attempts),
        dash(failure.status),
        str(dead.letters),
        view.standing(dead),
        failure.message,
    )


@app.command()
def show(
    sink: Name,
    event: Annotated[str | None, typer.Argument(metavar="EVENT", help="An event's id; else the newest open.")] = None,
    *,
    as_json: Json = False,
) -> None:
    """Print what happened to one event, why, and what to do; then all of its letter."""
    bus, settings = load_bus(), load()
    cluster = cluster_of(settings)
    name = browse.flow_of(bus, sink)
    with (
        Control(cluster) as control,
        closing(registry_of(settings.kafka, cluster, schemas_of(bus))) as registry,
        looking(settings) as db,
    ):
        view = View(bus, name, browse.look(control, reading(bus)[name]), control, db)
        if event is not None:
            dead = select(view.letters.dead, [event], [])[0]
        elif open_ := [dead for dead in view.letters.dead if not view.finished(dead)]:
            dead = next((dead for dead in open_ if dead.who not in view.behind), open_[0])
        else:
            if as_json:
                print_json(None)
            talk.print(f"{name} has no open dead letters.", markup=False)
            return
        letter = browse.Ahead(control, view.topic).open(dead)
        raw = browse.value_of(control, letter)
        value, problem = view.curtain.decode(registry, raw)
    told = story(dead, letter, view)
    if not view.known:
        told = f"{told_why(dead, letter, view)} But {no_ledger(settings, SINCE)}"
    if as_json:
        told_value = {"value": value} if problem is None else {"not_decoded": problem, "hex": (raw or b"").hex()}
        print_json({"summary": told, **as_data(dead, letter, view), **told_value})
        return
    out.print(safe(told), style="bold", markup=False)
    out.print()
    for heading, content in detail(dead, letter, view).items():
        out.print(safe(f"{heading:<13} {content}"), markup=False)
    out.print("headers")
    for heading, text in view.curtain.headers(letter.record.headers):
        out.print(safe(f"  {heading}: {text}"), markup=False)
    if problem is None:
        out.print("payload")
        print_json(value)
    else:
        out.print(safe(f"payload, not decoded: {problem}"), markup=False)
        out.print("  no value" if raw is None else f"  {hex_start(raw)}")


app.command()(replay.replay)
app.command()(discard.discard)


def story(dead: Dead, letter: Opened, view: View) -> str:
    """Say in plain words what happened to an event, why, what it means and what to do."""
    state, why = view.states[dead.who], told_why(dead, letter, view)
    who = view.sink or view.name
    key = view.curtain.key_of(dead.raw_key)
    if state is State.DONE:
        done = "delivered it" if view.sink else "had it processed"
        return f"{why} A replay has {done} since; nothing is left to do."
    if dead.who in view.under_way:
        return f"{why} A replay has sent it again, and it is not taken yet: `trunkline status` shows who works."
    if state is State.SUPERSEDED:
        return f"{why} A later event of its key is delivered, so it is superseded; nothing is left to do."
    if state is State.DISCARDED:
        return f"{why} A person has discarded it; nothing is left to do."
    by_key = shlex.join(["trunkline", "dlq", "replay", who, "--key", key or ""])
    if (head := view.behind.get(dead.who)) is not None:
        return f"{why} It is parked behind event {head.id}. Replay its key, in order, with: {by_key}"
    if count := view.waiting(dead):
        waiting = "1 later event of its key is" if count == 1 else f"{count} later events of its key are"
        return f"{why} {waiting} parked behind it. Replay them all, in order, with: {by_key}"
    command = shlex.join(["trunkline", "dlq", "replay", who, "--event", dead.id])
    if state is State.AMBIGUOUS:
        return (
            f"{why} It may have been applied, and the target knows no keys: a replay calls it again. If that is "
            f"right, replay it with: {command}"
        )
    if dead.replays >= MOST_REPLAYS:
        return f"{why} It was replayed {dead.replays} times in vain. Once more, with: {command}"
    return f"{why} It waits here; nothing else is affected. Replay it with: {command}"


def told_why(dead: Dead, letter: Opened, view: View) -> str:
    """Say in plain words what happened to an event, and why."""
    failure = letter.letter.failure
    key = view.curtain.key_of(dead.raw_key)
    about = f"event {dead.id} ({'no key' if key is None else f'key {key}'})"
    tries = f" in {failure.attempts} attempts" if failure.attempts > 1 else ""
    return f"{view.sink or view.name} {MEANING[failure.kind]} {about}{tries}: {failure.message.rstrip('.')}."


def detail(dead: Dead, opened: Opened, view: View) -> dict[str, Any]:
    """Give what a person wants to know of a letter besides its story."""
    letter, record = opened.letter, opened.record
    return {
        "state": view.standing(dead),
        "event": f"{dead.id} of {dead.source}",
        "flow": called(view.name, view.identity),
        "happened": moment(opened.event.time),
        "origin": f"{letter.origin.topic} partition {letter.origin.partition} offset {letter.origin.offset}",
        "letter": f"{record.topic} partition {record.partition} offset {record.offset}",
        "first failed": moment(letter.first_failed_at),
        "last failed": moment(letter.failure.at),
        "class": f"{letter.failure.kind}, at stage {letter.failure.stage} ({letter.failure.error})",
        "attempts": letter.failure.attempts,
        "status": "-" if letter.failure.status is None else letter.failure.status,
        "replays": letter.replays,
        "letters": dead.letters,
    }


def as_data(dead: Dead, opened: Opened, view: View) -> dict[str, Any]:
    """Give an event of the dead letters for programs."""
    letter, failure, head = opened.letter, opened.letter.failure, view.behind.get(dead.who)
    return {
        "event": dead.id,
        "source": dead.source,
        "time": moment(opened.event.time),
        "key": view.curtain.key_of(dead.raw_key),
        "flow": view.name,
        "class": failure.kind,
        "stage": failure.stage,
        "error": failure.error,
        "reason": failure.message,
        "status": failure.status,
        "attempts": failure.attempts,
        "first_failed_at": moment(letter.first_failed_at),
        "last_failed_at": moment(failure.at),
        "replays": letter.replays,
        "letters": dead.letters,
        "state": view.word(dead),
        "behind": None if head is None else head.id,
        "origin": {
            "topic": letter.origin.topic,
            "partition": letter.origin.partition,
            "offset": letter.origin.offset,
        },
        "letter": {
            "topic": view.topic,
            "partition": dead.partition,
            "offset": dead.offset,
        },
        "headers": view.curtain.headers(opened.record.headers),
    }
