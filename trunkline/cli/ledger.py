"""The ledger: which one it is and what it holds, and making a lost one again."""

from contextlib import closing
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from trunkline.cli.project import cluster_of, load_bus, looking, out, print_json, talk
from trunkline.cli.show import print_table
from trunkline.errors import Halt, UsageError
from trunkline.flow.declare import sink_identity
from trunkline.kafka import orders
from trunkline.kafka.control import Control
from trunkline.kafka.events import Sender
from trunkline.ledger import deliveries, identity, reach
from trunkline.ledger.database import Ledger
from trunkline.ledger.deliveries import State
from trunkline.ledger.sqlite import File
from trunkline.ledger.trust import Create, Fine, oldest_day, state_of_ledger
from trunkline.operate.control import topic_of
from trunkline.operate.rebuild import Choice, Rebuild, Restored, trusted
from trunkline.settings import load

app = typer.Typer(no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command()
def show(*, as_json: Json = False) -> None:
    """Print which ledger it is, whether workers would trust it, and what it holds."""
    bus, settings = load_bus(), load()
    cluster = cluster_of(settings)
    with Control(cluster) as control, looking(settings) as db:
        known = orders.current(cluster, topic_of(bus, control)).ledger
        if db is None:
            lost = state_of_ledger(None, known, {}, {})
            new = f"{reach(settings.ledger).name} does not exist yet: the first `trunkline run` of this bus makes it."
            raise UsageError(str(lost) if isinstance(lost, Halt) else new)
        states = trusted(bus, control, db, known)
        found = identity.read(db)
        counts = {sink.name: deliveries.count(db, sink_identity(sink)) for sink in bus.sinks}
        oldest = oldest_day(db)
    facts: dict[str, Any] = {
        "ledger": reach(settings.ledger).name.removeprefix("the ledger "),
        "id": None if found is None else found.id,
        "epoch": None if found is None else found.epoch,
        "bytes": size(reach(settings.ledger)),
        "oldest_day": None if oldest is None else oldest.isoformat(),
        "trusted": all(isinstance(state, Fine | Create) for state in states),
        "why": next((str(state) for state in states if isinstance(state, Halt)), None),
    }
    if as_json:
        print_json(facts | {"sinks": {sink: {s.name.lower(): of[s] for s in State} for sink, of in counts.items()}})
        return
    for name, value in facts.items():
        if value is not None:
            told = {True: "yes", False: "no"}[value] if isinstance(value, bool) else value
            out.print(f"{name.replace('_', ' '):<11} {told}", markup=False)
    out.print()
    print_table(
        ("sink", *(state.name.lower() for state in State)),
        [(sink, *(str(of[state]) for state in State)) for sink, of in counts.items()],
    )


def size(ledger: Ledger) -> int | None:
    """Give the bytes of a ledger's file, with what is not folded into it yet; None for one on a server."""
    if not isinstance(ledger, File):
        return None
    parts = [ledger.path, ledger.path.with_name(f"{ledger.path.name}-wal")]
    return sum(part.stat().st_size for part in parts if part.exists())


@app.command()
def rebuild(
    *,
    resend: Annotated[
        bool, typer.Option("--resend", help="Send again what a target without idempotency keys may have.")
    ] = False,
    ambiguous: Annotated[
        bool, typer.Option("--ambiguous", help="Keep what such a target may have as dead letters, for a person.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make a lost, replaced or outdated ledger again, from committed offsets and recorded outcomes.

    No worker may run meanwhile. Events at or above a committed offset are sent again, under the keys they had.
    """
    if resend and ambiguous:
        raise UsageError("--resend and --ambiguous are two answers to one question. Give one of them.")
    choice: Choice | None = "resend" if resend else "ambiguous" if ambiguous else None
    bus, settings = load_bus(), load()
    cluster = cluster_of(settings)
    with Control(cluster) as control, closing(Sender(cluster)) as sender:
        topic_of(bus, control)
        ledger = reach(settings.ledger)
        with ledger.connect() as db:
            identity.belong(db, bus.identity, ledger.name)
            made, restored = Rebuild(bus, cluster, control, sender, db, tell).run(choice)
    if as_json:
        print_json({"id": made.id, "epoch": made.epoch, "sinks": [data_of(one, choice) for one in restored]})
        return
    out.print(
        f"ledger {made.id} epoch {made.epoch}, made again at {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", markup=False
    )
    headings = ("sink", "flow", "outcomes read", "delivered", "in doubt", "no events", "parked keys", "known now")
    print_table(headings, [row(one, choice) for one in restored])


def tell(what: str) -> None:
    """Tell what is done next."""
    talk.print(what, markup=False)


def row(one: Restored, choice: Choice | None) -> tuple[str, ...]:
    """Give a sink's row of the table."""
    fate = {"resend": "up to {}, sent again", "ambiguous": "{}, ambiguous", None: "{}"}[choice]
    known = ", ".join(f"{one.states[state]} {state.name.lower()}" for state in State if one.states[state])
    return (
        one.sink,
        one.flow,
        str(one.outcomes),
        str(one.delivered),
        fate.format(one.doubtful) if one.doubtful else "-",
        str(one.foreign),
        str(one.parked),
        known or "nothing",
    )


def data_of(one: Restored, choice: Choice | None) -> dict[str, Any]:
    """Give what was made of a sink for programs."""
    return {
        "sink": one.sink,
        "flow": one.flow,
        "outcomes": one.outcomes,
        "delivered": one.delivered,
        "doubtful": one.doubtful,
        "choice": choice,
        "foreign": one.foreign,
        "parked_keys": one.parked,
        "states": {state.name.lower(): one.states[state] for state in State},
    }
