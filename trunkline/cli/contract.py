"""`trunkline sink check`: what a sink sends, against the vendor's own description of the API."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from trunkline.cli import told
from trunkline.cli.project import Json, load_bus, out, print_json, safe
from trunkline.cli.show import many
from trunkline.cli.walk import rows_in
from trunkline.errors import UsageError
from trunkline.flow import openapi
from trunkline.flow.breaks import Break, breaks
from trunkline.flow.declare import Bus
from trunkline.flow.inputs import TABLES, examples, walked
from trunkline.flow.openapi import Document, Finding


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found of the requests that a sink sends for the examples; without a newer document nothing is broken."""

    sink: str
    requests: int
    document: Document
    newer: Document | None
    wrong: list[Finding]
    """What the document does not allow."""
    broken: list[Finding]
    """What it allows and the newer one would not."""
    taken: list[Break]
    """What the newer one takes away."""


def check(
    sink: Annotated[str, typer.Argument(metavar="SINK", help="A sink's name, or its flow's.")],
    *,
    document: Annotated[
        Path, typer.Option("--openapi", metavar="FILE", help="The vendor's OpenAPI document, in JSON or YAML.")
    ],
    newer: Annotated[Path | None, typer.Option(metavar="FILE", help="A newer one: name what it would break.")] = None,
    tables: Annotated[
        Path | None, typer.Option(help=f"Rows by table and key, as JSON. [default: {TABLES}, if there is one]")
    ] = None,
    as_json: Json = False,
) -> None:
    """Validate what a sink sends for the examples against its vendor's OpenAPI document; nothing is sent.

    Exits with 1 when something is not allowed, or would not be by the newer document.
    """
    bus = load_bus()
    name = sink_in(bus, sink)
    found = walked(bus, {"inputs": examples(bus.publishing), "tables": rows_in(tables, real=False)})
    calls = [
        (given, hop)
        for given, journey in found["journeys"].items()
        for hop in journey.get("hops", ())
        if hop["hop"] == "call" and hop["sink"] == name and hop["request"] is not None
    ]
    if not calls:
        raise UsageError(
            f"no example makes {name} send anything, so there is nothing to check. `trunkline walk` says why."
        )
    old = openapi.read(document)
    new = None if newer is None else openapi.read(newer)
    wrong = openapi.findings(old, calls)
    broken = [] if new is None else [one for one in openapi.findings(new, calls) if one not in wrong]
    taken = [] if new is None else breaks(old, new, calls)
    [speaks] = {one.speaks for one in bus.sinks if one.name == name}
    checked = Checked(name, len(calls), old, new, wrong, broken, taken)
    if as_json:
        print_json(as_data(checked))
    else:
        tell(checked, speaks, told.Hiding(found))
    if wrong or broken or taken:
        raise typer.Exit(1)


def sink_in(bus: Bus, name: str) -> str:
    """Find the sink that is meant by its own name or by its flow's.

    Raises:
        UsageError: there is none.
    """
    found = {flow: one.to.name for flow, one in bus.delivering.items()} | {one.name: one.name for one in bus.sinks}
    if name not in found:
        raise UsageError(f"there is no sink {name}. The sinks are: {', '.join(dict.fromkeys(found.values()))}.")
    return found[name]


def tell(checked: Checked, speaks: str, hide: told.Hiding) -> None:
    """Print what was found for a person."""
    name, old, new = checked.sink, checked.document, checked.newer
    if speaks and speaks != old.version:
        out.print(
            f"! {name} speaks {speaks}; {old.name} describes {old.version or 'no version'}",
            style="yellow",
            markup=False,
        )
    for title, found in (
        (f"{old.name} does not allow", checked.wrong),
        (f"{new.name if new else ''} would not allow any more", checked.broken),
    ):
        if found:
            out.print(title, style="bold", markup=False)
        for one in grouped(found):
            shown = hide(one[0].input, f"{one[0].request}  {one[0].at} {one[0].told}")
            more = f" and {len(one) - 1} more" if len(one) > 1 else ""
            out.print(safe(f"  - {shown}  ({one[0].input}{more})"), style="red", markup=False)
    if checked.taken:
        out.print(f"{new.name if new else ''} takes away", style="bold", markup=False)
    for each in checked.taken:
        said = "sent by an example" if each.sent else "no example has it"
        out.print(
            safe(f"  - {each.operation}  {each.at} {each.told}  ({said})"),
            style="red" if each.sent else "yellow",
            markup=False,
        )
    requests = many(checked.requests, "request")
    verdict = f"{len(checked.wrong)} not allowed" if checked.wrong else "all allowed"
    later = (
        "" if new is None else f"; by {new.name} {len(checked.broken)} would not be, {len(checked.taken)} taken away"
    )
    out.print(f"{name}: {requests} against {old.name} {old.version}: {verdict}{later}", style="bold", markup=False)


def grouped(found: list[Finding]) -> list[list[Finding]]:
    """Put together what is wrong alike at the same place."""
    places: dict[tuple[str, str], list[Finding]] = {}
    for one in found:
        places.setdefault((one.at, one.told), []).append(one)
    return list(places.values())


def as_data(checked: Checked) -> dict[str, Any]:
    """Give what was found for programs."""
    old, new = checked.document, checked.newer
    return {
        "sink": checked.sink,
        "requests": checked.requests,
        "document": {"name": old.name, "version": old.version},
        "newer": None if new is None else {"name": new.name, "version": new.version},
        "not_allowed": [vars(one) for one in checked.wrong],
        "would_not_be_allowed": [vars(one) for one in checked.broken],
        "taken_away": [vars(one) for one in checked.taken],
    }
