"""Dead letters: see what could not be delivered and why, and replay it to the sink that failed."""

import shlex
from contextlib import closing
from typing import Annotated, Any

import typer

from trunkline.cli import replay
from trunkline.cli.project import bootstrap, load_bus, looking, out, print_json, talk
from trunkline.cli.show import decode, hex_start, moment, print_table, safe, text_of
from trunkline.flow.declare import Bus, dead_letters_of, schemas_of
from trunkline.kafka.control import Control
from trunkline.kafka.registry import Registry
from trunkline.kafka.topics import reading
from trunkline.operate import browse
from trunkline.operate.browse import Dead, Letters, sink_of
from trunkline.operate.replay import MOST_REPLAYS, key_of, select
from trunkline.settings import load

app = typer.Typer(help="Dead letters: what could not be delivered, why, and its replay.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Name = Annotated[str, typer.Argument(metavar="SINK", help="A sink's name, or a flow's.")]

MEANING = {
    "permanent": "refused",
    "exhausted": "did not take",
    "unknown": "was sent, and never answered for,",
    "poison": "cannot read",
}


@app.command("ls")
def list_letters(
    sink: Annotated[str | None, typer.Argument(metavar="[SINK]", help="A sink's name, or a flow's.")] = None,
    *,
    as_json: Json = False,
) -> None:
    """Print where dead letters lie; with SINK, every event there, the newest failure first."""
    bus, settings = load_bus(), load()
    with Control(bootstrap(settings)) as control, looking(settings) as db:
        if sink is not None:
            flow = browse.flow_of(bus, sink)
            letters = browse.look(control, flow)
            since = browse.delivered(db, sink_of(bus, flow), letters.dead)
            print_letters(flow, letters, since, as_json=as_json)
            return
        known = control.topics()
        found = []
        for flow in reading(bus):
            if dead_letters_of(flow) in known and (letters := browse.look(control, flow)) and letters.dead:
                delivered = sum(browse.delivered(db, sink_of(bus, flow), letters.dead))
                found.append((flow, letters, delivered))
    if as_json:
        print_json([summary(bus, *one) for one in found])
    elif found:
        headings = ("sink", "flow", "events", "letters", "open", "delivered since")
        print_table(headings, [[str(cell) for cell in summary(bus, *one).values()] for one in found])
    else:
        talk.print("No dead letters.")


def summary(bus: Bus, flow: str, letters: Letters, delivered: int) -> dict[str, Any]:
    """Give what a flow's dead letters come to."""
    return {
        "sink": sink_of(bus, flow) or "-",
        "flow": flow,
        "events": len(letters.dead),
        "letters": sum(dead.letters for dead in letters.dead),
        "open": len(letters.dead) - delivered,
        "delivered": delivered,
    }


def print_letters(flow: str, letters: Letters, since: list[bool], *, as_json: bool) -> None:
    """Print every event of one flow's dead letters."""
    if as_json:
        print_json([as_data(dead, delivered=done) for dead, done in zip(letters.dead, since, strict=True)])
    elif letters.dead:
        headings = ("failed at", "event", "key", "class", "attempts", "status", "letters", "state", "reason")
        print_table(headings, [row(dead, delivered=done) for dead, done in zip(letters.dead, since, strict=True)])
    else:
        talk.print(f"{flow} has no dead letters.", markup=False)
    if letters.foreign:
        talk.print(f"{letters.foreign} records on {dead_letters_of(flow)} are no dead letters of ours.", markup=False)


def row(dead: Dead, *, delivered: bool) -> tuple[str, ...]:
    """Give an event's row of the table."""
    failure = dead.letter.failure
    return (
        moment(failure.at),
        dead.event.id,
        key_of(dead) or "-",
        failure.kind,
        str(failure.attempts),
        "-" if failure.status is None else str(failure.status),
        str(dead.letters),
        state(delivered=delivered),
        failure.message,
    )


def state(*, delivered: bool) -> str:
    """Name what has become of an event since it failed."""
    return "delivered" if delivered else "open"


@app.command()
def show(
    sink: Name,
    event: Annotated[str | None, typer.Argument(metavar="[EVENT]", help="An event's id; else the newest open.")] = None,
    *,
    as_json: Json = False,
) -> None:
    """Print what happened to one event, why, and what to do; then all of its letter."""
    bus, settings = load_bus(), load()
    address = bootstrap(settings)
    flow = browse.flow_of(bus, sink)
    with (
        Control(address) as control,
        closing(Registry(address, schemas_of(bus))) as registry,
        looking(settings) as db,
    ):
        letters = browse.look(control, flow)
        since = browse.delivered(db, sink_of(bus, flow), letters.dead)
        candidates = list(zip(letters.dead, since, strict=True))
        if event is None:
            candidates = [(dead, done) for dead, done in candidates if not done]
            if not candidates:
                talk.print(f"{flow} has no open dead letters.", markup=False)
                return
        else:
            chosen = select(letters.dead, [event], [])
            candidates = [(dead, done) for dead, done in candidates if dead in chosen]
        dead, done = candidates[0]
        raw = browse.value_of(control, dead)
        value, problem = decode(registry, raw)
    told = story(dead, sink_of(bus, flow), delivered=done)
    if as_json:
        told_value = {"value": value} if problem is None else {"not_decoded": problem, "hex": (raw or b"").hex()}
        print_json({"summary": told, **as_data(dead, delivered=done), **told_value})
        return
    out.print(safe(told), style="bold", markup=False)
    out.print()
    for name, content in detail(dead, delivered=done).items():
        out.print(safe(f"{name:<13} {content}"), markup=False)
    out.print("headers")
    for name, content in dead.record.headers:
        out.print(safe(f"  {name}: {text_of(content)}"), markup=False)
    if problem is None:
        out.print("payload")
        print_json(value)
    else:
        out.print(safe(f"payload, not decoded: {problem}"), markup=False)
        out.print("  no value" if raw is None else f"  {hex_start(raw)}")


app.command()(replay.replay)


def story(dead: Dead, sink: str | None, *, delivered: bool) -> str:
    """Say in plain words what happened to an event, why, what it means and what to do."""
    failure = dead.letter.failure
    who = sink or failure.flow
    key = "no key" if dead.record.key is None else f"key {key_of(dead)}"
    what = f"{who} {MEANING.get(failure.kind, 'failed on')} event {dead.event.id} ({key})"
    tries = f" in {failure.attempts} attempts" if failure.attempts > 1 else ""
    why = f"{what}{tries}: {failure.message.rstrip('.')}."
    if delivered:
        return f"{why} A replay has delivered it since; nothing is left to do."
    if sink is None:
        return f"{why} It waits here; nothing else is affected. A step's dead letters are kept, but cannot be replayed."
    if dead.letter.replays >= MOST_REPLAYS:
        return f"{why} It was replayed {dead.letter.replays} times in vain, so another replay is refused."
    command = shlex.join(["trunkline", "dlq", "replay", sink, "--event", dead.event.id])
    return f"{why} It waits here; nothing else is affected. Replay it with: {command}"


def detail(dead: Dead, *, delivered: bool) -> dict[str, Any]:
    """Give what a person wants to know of a letter besides its story."""
    letter, record = dead.letter, dead.record
    return {
        "state": state(delivered=delivered),
        "event": f"{dead.event.id} of {dead.event.source}",
        "happened": moment(dead.event.time),
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


def as_data(dead: Dead, *, delivered: bool) -> dict[str, Any]:
    """Give an event of the dead letters for programs."""
    letter, failure = dead.letter, dead.letter.failure
    return {
        "event": dead.event.id,
        "source": dead.event.source,
        "time": moment(dead.event.time),
        "key": key_of(dead),
        "flow": failure.flow,
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
        "state": state(delivered=delivered),
        "origin": {
            "topic": letter.origin.topic,
            "partition": letter.origin.partition,
            "offset": letter.origin.offset,
        },
        "letter": {
            "topic": dead.record.topic,
            "partition": dead.record.partition,
            "offset": dead.record.offset,
        },
        "headers": [(name, text_of(content)) for name, content in dead.record.headers],
    }
