"""`trunkline schema`: the records on the topics, the types made of them, and what a change of one would break."""

import importlib.util
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Annotated, Any

import typer

from trunkline.avro.codec import Codec
from trunkline.avro.compat import MODES, clashes
from trunkline.avro.differences import differences
from trunkline.avro.files import FILE, SCHEMAS, Schema, released
from trunkline.avro.types import module
from trunkline.avro.versions import functions_of, versions_of
from trunkline.cli.checker import typed
from trunkline.cli.loading import load_unchecked
from trunkline.cli.project import Json, cluster_of, load_bus, print_json, talk
from trunkline.cli.revision import git
from trunkline.cli.show import many, print_table
from trunkline.cli.walk import rows_in
from trunkline.errors import Fault, TrunklineError, UsageError
from trunkline.flow.check import place_of
from trunkline.flow.declare import Bus, Lookup, Table, Topic, schemas_of
from trunkline.flow.exercise import exercised
from trunkline.flow.inputs import rows_of
from trunkline.flow.proposals import Gone, Proposal, gone_of, proposals, released_faults, version_faults
from trunkline.flow.readers import (
    Reading,
    fault_of,
    is_same,
    places,
    roles,
)
from trunkline.flow.walk import examples_of, kind_of
from trunkline.kafka.cluster import Cluster
from trunkline.kafka.greeting import greet
from trunkline.kafka.registry import Schemas, registry_of
from trunkline.settings import load
from trunkline.webhooks import WebhookRequest

app = typer.Typer(no_args_is_help=True)


@app.command()
def types(
    *, only_check: Annotated[bool, typer.Option("--check", help="Write nothing; exit with 1 when it would.")] = False
) -> None:
    """Write schemas/__init__.py: one type for every record of the schema files."""
    found = files()
    text = module(found)
    path = SCHEMAS / "__init__.py"
    is_stale = not path.exists() or path.read_text() != text
    if is_stale and only_check:
        raise TrunklineError(f"{path} is not what the schema files say. Run: trunkline schema types.")
    if is_stale:
        path.write_text(text)
    state = "written from" if is_stale else "up to date with"
    talk.print(f"{path}: {state} {many(len(found), 'schema file')}.", markup=False)


@app.command()
def check(
    *,
    against: Annotated[str | None, typer.Option(help="The git revision whose versions are released. [HEAD]")] = None,
    mode: Annotated[str, typer.Option(help=f"Which versions must read which: {', '.join(MODES)}.")] = MODES[1],
    as_json: Json = False,
) -> None:
    """Name what a change of the schema files breaks: versions that cannot be read, and every line that reads a field.

    Needs neither broker nor registry. A version that the git revision has is released and never changes; the next one
    is a new file. Exits with 1 when anything is named.
    """
    if mode not in MODES:
        raise UsageError(f"--mode {mode} is none of {', '.join(MODES)}.")
    found = files()
    module(found)  # what can be no type is told by its own file, and not by the one whose place it takes below
    revision, notes = at_revision(against)
    bus, held, why = declared()
    faults = [
        *([Fault("topology.py:1", why)] if why else []),
        *released_faults(found, revision, against or "HEAD"),
        *version_faults(found, mode, {one.name: functions_of(one) for one in found}),
    ]
    proposed = proposals(found, revision, [part.schema for part in held])
    gone = [one for proposal in proposed for one in gone_of(proposal)] + moved(found, held)
    if gone:
        before(held, proposed)
        with talk.status("Looking for what reads or writes what changes"):
            faults += read_by(found, gone, bus, notes)
    tell(
        sorted(set(faults), key=lambda fault: (*place_of(fault.where), fault.message)), proposed, notes, as_json=as_json
    )


def at_revision(name: str | None) -> tuple[list[Schema], list[str]]:
    """Read the schema files of a git revision; where there is no git, a note says what was not compared.

    Raises:
        UsageError: the revision was asked for, and is not there.
    """
    try:
        listed = git(
            "ls-tree", "-z", "--name-only", name or "HEAD", f"{SCHEMAS}/", wrong=name or "", option="--against"
        )
        return [
            Schema(match["name"], int(match["version"]), path, json.loads(git("show", f"{name or 'HEAD'}:./{path}")))
            for path in map(Path, listed.split("\0"))
            if (match := FILE.fullmatch(path.name)) is not None
        ], []
    except UsageError:
        if name is not None:
            raise
        return [], ["no git revision to compare with: nobody looked whether a released version was changed"]


def declared() -> tuple[Bus | None, list[Topic | Table], str]:
    """Load the bus, wrong as it may be; without one, why there is none."""
    try:
        bus = load_unchecked()
    except UsageError as error:
        return None, [], str(error)
    parts: list[Topic | Table] = [*bus.topics, *bus.tables]
    held = []
    for part in parts:
        try:
            part.schema.text  # noqa: B018 - whether there is one
            held.append(part)
        except UsageError:
            continue  # `trunkline check` names it
    return bus, held, ""


def moved(found: Sequence[Schema], held: Iterable[Topic | Table]) -> list[Gone]:
    """Find the fields that the versions before those on the topics had: code that was moved may still read them."""
    here = {(part.schema.name, part.schema.version) for part in held}
    gone = []
    for new in found:
        if (new.name, new.version) in here:
            for old in found:
                if old.name == new.name and old.version < new.version:
                    lost = gone_of(Proposal(old, new))
                    gone += [one.as_moved() for one in lost if not one.after]
    return gone


def before(held: Iterable[Topic | Table], proposed: Sequence[Proposal]) -> None:
    """Let topics and tables have the versions that were edited as they were, so that the examples can be walked."""
    for part in held:
        for one in proposed:
            if (one.old.name, one.old.version) == (part.schema.name, part.schema.version):
                vars(part)["schema"] = one.old


def read_by(found: Sequence[Schema], gone: Sequence[Gone], bus: Bus | None, notes: list[str]) -> list[Fault]:
    """Name every line that reads or writes a field that is gone, or no longer fits."""
    known, acting = places(), {} if bus is None else roles(bus)
    seen: list[Reading] = []
    met: list[Reading] = []
    if importlib.util.find_spec("mypy") is None:
        notes.append(
            "mypy is not installed, so only what the examples reach was looked at: pip install 'trunkline[check]'"
        )
    else:
        seen += typed(found, gone)
    if bus is not None:
        with redirect_stdout(StringIO()):  # what the project's code prints is no answer
            met += exercised(bus, examples(bus), rows(bus, notes), gone)
    seen += [one for one in met if not any(is_same(one, other) for other in seen)]
    told = {(one.path, one.line) for one in seen if one.gone is not None}
    return [fault_of(one, known, acting) for one in seen if one.gone is not None or (one.path, one.line) not in told]


def examples(bus: Bus) -> dict[str, list[WebhookRequest]]:
    """Read the examples of every source."""
    return {
        name: [WebhookRequest({"content-type": kind_of(path.name)}, path.read_bytes()) for path in examples_of(name)]
        for name in bus.publishing
    }


def rows(bus: Bus, notes: list[str]) -> dict[Any, dict[str, Any]]:
    """Give the rows that examples are walked with."""
    written = {"tables": rows_in(None, real=False)}
    parts: list[Table | Lookup] = [*bus.tables, *bus.lookups]
    return {part: dict(rows_of(part, written, notes)) for part in parts}


def tell(faults: Sequence[Fault], proposed: Sequence[Proposal], notes: Sequence[str], *, as_json: bool) -> None:
    """Print what was found; exit with 1 when it is anything.

    Raises:
        Exit: something is named, or was not looked at for want of the type checker.
    """
    names = list(dict.fromkeys(one.told for one in proposed))
    lacking = any(note.startswith("mypy is not installed") for note in notes)
    if as_json:
        told = [{"where": fault.where, "message": fault.message} for fault in faults]
        print_json({"proposed": names, "faults": told, "notes": list(notes)})
    else:
        for note in notes:
            talk.print(f"note: {note}", markup=False)
        for fault in faults:
            typer.echo(str(fault))
        count = many(len(faults), "fault") if faults else "ok"
        typer.echo(f"{count}: {', '.join(names) if names else 'nothing'} proposed")
    if faults or lacking:
        raise typer.Exit(1)


@app.command("ls")
def list_schemas(*, as_json: Json = False) -> None:
    """List the schema files: name, version, type of event, fields, and the topics they are used on."""
    bus = load_bus()
    rows = [row(one, bus) for one in files()]
    if as_json:
        print_json(rows)
        return
    print_table(
        ("schema", "event", "fields", "topics"),
        [
            (f"{one['name']}.v{one['version']}", one["event_type"], ", ".join(one["fields"]), ", ".join(one["topics"]))
            for one in rows
        ],
    )


def files() -> list[Schema]:
    """Read the project's schema files.

    Raises:
        UsageError: there are none, or one of them is no schema.
    """
    if not (found := released(SCHEMAS)):
        raise UsageError(f"there is no schema file in {SCHEMAS}/. Add one: {SCHEMAS}/<name>.v1.avsc.")
    for one in found:
        try:
            Codec(one.text)
        except UsageError as error:
            raise UsageError(f"{one.path}: {error}.") from None
    return found


def row(one: Schema, bus: Bus) -> dict[str, Any]:
    """Describe one schema."""
    path = one.path.resolve()
    stored: list[Table | Topic] = [*bus.topics, *bus.tables]
    return {
        "name": one.name,
        "version": one.version,
        "event_type": one.event_type,
        "fields": [field["name"] for field in one.definition["fields"]],
        "topics": [part.name for part in stored if part.schema.path.resolve() == path],
    }


def named(name: str) -> tuple[list[Schema], Schema | None]:
    """Find the versions of a schema, and the one that is named: `order_placed` or `order_placed.v2`.

    Raises:
        UsageError: there is none.
    """
    found = files()
    bare, _, version = name.partition(".v")
    versions = [one for one in found if one.name == bare]
    chosen = next((one for one in versions if str(one.version) == version), None)
    if not versions or (version and chosen is None):
        known = ", ".join(f"{one.name}.v{one.version}" for one in found)
        raise UsageError(f"there is no schema {name}; there are: {known}.")
    return versions, chosen


@app.command()
def show(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A schema, a version of one, or the number of a registered one.")
    ],
) -> None:
    """Print a schema: its versions, the topics that hold it and its definition."""
    if name.isdecimal():
        with registry(load_bus()) as schemas:
            text = schemas.text_of(int(name))
        if text is None:
            raise UsageError(f"no schema is registered as {name}.")
        typer.echo(json.dumps(json.loads(text), indent=2, ensure_ascii=False))
        return
    versions, chosen = named(name)
    one = chosen or versions[-1]
    bus = load_unchecked()
    topics = ", ".join(row(one, bus)["topics"]) or "no topic"
    typer.echo(f"{one.name}.v{one.version}  {one.event_type}  on {topics}")
    typer.echo(f"versions: {', '.join(f'v{each.version}' for each in versions)}")
    typer.echo(json.dumps(one.definition, indent=2, ensure_ascii=False))


@app.command()
def diff(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A schema, or the older of two versions: order_placed.v1.")
    ],
    other: Annotated[str, typer.Argument(metavar="NEWER", help="The newer version; left out, the newest one.")] = "",
) -> None:
    """Print how two versions of a schema differ, and whether each can be read as the other."""
    versions, chosen = named(name)
    others, other_chosen = named(other) if other else (versions, None)
    new = other_chosen or others[-1]
    old = chosen or versions[-2:][0]
    if old is new:
        raise UsageError(
            f"{old.name}.v{old.version} is the newest version, so there is none to compare it with. Add {SCHEMAS}/"
            f"{old.name}.v{old.version + 1}.avsc, or name two versions."
        )
    before, after = Codec(old.text), Codec(new.text)
    typer.echo(f"{old.name}.v{old.version} → {new.name}.v{new.version}")
    for line in differences(before, after) or ["nothing differs"]:
        typer.echo(f"  {line}")
    for reader, writer, codecs in ((new, old, (after, before)), (old, new, (before, after))):
        found = "; ".join(map(str, clashes(*codecs)))
        typer.echo(f"v{reader.version} reads v{writer.version}: {f'no: {found}' if found else 'yes'}")


@app.command()
def register(*, as_json: Json = False) -> None:
    """Register every schema that a topic or table holds, and its earlier versions; nothing changes for known ones."""
    bus = load_bus()
    parts: list[Topic | Table] = [*bus.topics, *bus.tables]
    used = {(one.name, one.version): one for part in parts for one in versions_of(part.schema)}
    with registry(bus) as schemas:
        rows = [
            {"name": name, "version": at, "id": schemas.id_of(one.text)} for (name, at), one in sorted(used.items())
        ]
    if as_json:
        print_json(rows)
        return
    print_table(("schema", "id"), [(f"{one['name']}.v{one['version']}", str(one["id"])) for one in rows])


@contextmanager
def registry(bus: Bus) -> Iterator[Schemas]:
    """Reach a bus's registry.

    Raises:
        Unavailable: no broker answers.
    """
    settings = load()
    cluster = Cluster("") if settings.kafka.registry else cluster_of(settings)
    if cluster.bootstrap:
        greet(cluster)  # first, because what reads the registry's topic keeps trying for ten seconds
    found = registry_of(settings.kafka, cluster, schemas_of(bus))
    try:
        yield found
    finally:
        found.close()
