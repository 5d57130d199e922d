"""The topics of the bus: what is missing or differs, and making what is missing."""

from dataclasses import asdict
from typing import Annotated, Any, assert_never

import typer

from trunkline.cli.project import cluster_of, load_bus, looking, print_json, talk
from trunkline.cli.show import many, print_table
from trunkline.kafka.control import Control
from trunkline.kafka.topics import Change, Create, Differ, Grow, Refuse, names, plan
from trunkline.operate.leaving import left
from trunkline.settings import load

app = typer.Typer(no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON list.")]


@app.command("plan")
def show(*, as_json: Json = False) -> None:
    """Print what `apply` would do, and what differs from the topology and is left as it is."""
    bus, settings = load_bus(), load()
    with Control(cluster_of(settings)) as control:
        changes = plan(bus, control.existing(names(bus)), settings.kafka)
    print_changes(changes, as_json=as_json)
    if not changes:
        talk.print("Every topic is as declared.")


@app.command()
def apply(*, as_json: Json = False) -> None:
    """Create the topics that are missing, and print them. Run it as often as you like."""
    bus, settings = load_bus(), load()
    with Control(cluster_of(settings)) as control, looking(settings) as db:
        changes = plan(bus, control.existing(names(bus)), settings.kafka)
        done = control.apply(changes)
        gone = [] if db is None else left(bus, control, db)
    print_changes(done, as_json=as_json)
    for change in changes:
        if isinstance(change, Differ):
            talk.print(f"{change.topic}: {change.why}; left as it is.", markup=False)
    for each in gone:
        talk.print(str(each), markup=False)
    if not done:
        talk.print("Nothing to do: every topic exists.")


def print_changes(changes: list[Change] | list[Create | Grow], *, as_json: bool) -> None:
    """Print changes, one a row."""
    if as_json:
        print_json([as_data(change) for change in changes])
    elif changes:
        print_table(("topic", "what", "why"), [(change.topic, what(change), change.why) for change in changes])


def what(change: Change) -> str:
    """Say in a few words what a change does."""
    match change:
        case Create():
            return (
                f"create: {many(change.partitions, 'partition')}, {many(change.replication, 'replica')}, {kept(change)}"
            )
        case Grow():
            return f"grow to {change.partitions} partitions"
        case Differ():
            return "differs"
        case Refuse():
            return "refused"
        case _:
            assert_never(change)


def kept(change: Create) -> str:
    """Say for how long a topic keeps its records."""
    if change.config["cleanup.policy"] == "compact":
        return "compacted"
    milliseconds = int(change.config["retention.ms"])
    return "kept for ever" if milliseconds < 0 else f"kept {many(milliseconds // 86_400_000, 'day')}"


def as_data(change: Change) -> dict[str, Any]:
    """Give a change for programs."""
    if isinstance(change, Refuse):
        return {"what": "refuse", "topic": change.topic, "why": change.why, "where": change.fault.where}
    return {"what": type(change).__name__.lower(), **asdict(change)}
