"""`trunkline walk`: what becomes of a request or an event, and how that differs from another version of the project."""

import base64
import json
import re
import sys
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from trunkline.avro.codec import split
from trunkline.cli import told
from trunkline.cli.project import Json, cluster_of, load_bus, out, print_json, talk
from trunkline.cli.revision import Beside, checked_out
from trunkline.cli.send import source_of
from trunkline.cli.tail import newest
from trunkline.errors import Poison, UsageError
from trunkline.flow.declare import Bus, schemas_of
from trunkline.flow.differences import compare
from trunkline.flow.inputs import TABLES, examples, posted, walked
from trunkline.flow.journeys import Data
from trunkline.flow.walk import EXAMPLES, example
from trunkline.kafka.control import Control, Record
from trunkline.kafka.registry import Schemas, registry_of
from trunkline.responses import Response
from trunkline.settings import load

STATUS = re.compile("[1-5][0-9]{2}")


def walk(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A source; with --last a topic. With --diff: all of them.")
    ] = "",
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="A file, an example's name, or - for what is piped in.")
    ] = "",
    *,
    diff: Annotated[
        str | None,
        typer.Option("--diff", metavar="REV", help="Compare with what this git revision of the project would do."),
    ] = None,
    last: Annotated[
        int | None, typer.Option("--last", "-n", min=1, metavar="N", help="Walk the newest events of a topic instead.")
    ] = None,
    tables: Annotated[
        Path | None, typer.Option(help=f"Rows by table and key, as JSON. [default: {TABLES}, if there is one]")
    ] = None,
    answer: Annotated[
        list[str] | None, typer.Option(metavar="SINK=STATUS", help="What a target answers; every other answers 200.")
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Show each request that differs, also where many do alike.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Print what the bus would do with a request, without doing it: steps, routes, requests, what answers mean.

    With --diff: exits with 1 when something differs from that revision. Nothing is sent, and sensitive fields are
    hidden.
    """
    bus = load_bus()
    if diff is not None and not diff.strip():
        raise UsageError("--diff is empty: name the git revision to compare with, such as main.")
    if every and diff is None:
        raise UsageError("--all says how much of a comparison is shown; add --diff REV.")
    if diff and answer:
        raise UsageError("--answer and --diff do not go together: a comparison asks what every answer would mean.")
    if last and file:
        raise UsageError(f"--last walks events of a topic; leave {file} out.")
    given = real(bus, source, last) if last else requests(bus, source, file, many=bool(diff))
    job = given | {"tables": rows_in(tables, real=bool(last))}
    if last and not job["inputs"]:
        empty = f"{source} has no records" if source else "no topic that a source publishes to has records"
        if diff:
            raise UsageError(f"{empty}: there is nothing to compare. Without --last the examples are compared.")
        talk.print(f"{empty}.", markup=False)
    if diff:
        compared(diff, bus, job, source, every=every, as_json=as_json)
        return
    found = walked(bus, job, answers(bus, answer or []))
    if as_json:
        print_json(told.hidden(found))
        return
    for line in told.walks(found):
        out.print(line)


def requests(bus: Bus, source: str, file: str, *, many: bool) -> Data:
    """Gather the request to be walked; with `many` and no file every example, of one source or of all."""
    if not source:
        if many:
            return {"inputs": examples(bus.publishing)}
        raise UsageError(f"say whose request it is: trunkline walk {'|'.join(bus.publishing)} [FILE].")
    found = source_of(bus, source)
    if many and not file:
        return {"inputs": examples([source])}
    if file == "-":
        return {"inputs": {f"{source}/-": posted(source, "", sys.stdin.buffer.read())}}
    path = Path(file) if file and Path(file).is_file() else example(found, file)
    return {"inputs": {f"{source}/{path.name}": posted(source, path.name, path.read_bytes())}}


def rows_in(path: Path | None, *, real: bool) -> dict[str, dict[str, Data]]:
    """Read the rows that are written down; real events are walked with the real ones alone, unless told otherwise.

    Raises:
        UsageError: the file is not there, or holds something else.
    """
    if path is None and (real or not TABLES.is_file()):
        return {}
    path = TABLES if path is None else path
    try:
        found = json.loads(path.read_text())
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}.") from None
    except ValueError as error:
        raise UsageError(f"{path} is no JSON: {error}.") from None
    if not isinstance(found, dict) or not all(
        isinstance(rows, dict) and all(isinstance(row, dict) for row in rows.values()) for rows in found.values()
    ):
        raise UsageError(f'{path} has to hold rows by table and key: {{"TABLE": {{"KEY": {{"FIELD": …}}}}}}.')
    return found


def real(bus: Bus, name: str, count: int) -> Data:
    """Read the newest events of a topic, and the rows of all tables as they are now; nothing is written.

    Raises:
        UsageError: there is no such topic.
    """
    published = {flow.to.name: flow.to for flow in bus.publishing.values()}
    topics = {topic.name: topic for topic in bus.topics}
    if name and name not in topics:
        raise UsageError(
            f"--last walks events of a topic, and there is no topic {name}. The topics are: {', '.join(topics)}."
        )
    settings = load()
    cluster = cluster_of(settings)
    inputs: Data = {}
    with Control(cluster) as control, closing(registry_of(settings.kafka, cluster, schemas_of(bus))) as registry:
        wanted = [name] if name else [*published]
        existing = control.topics({*wanted, *(table.name for table in bus.tables)})
        for topic in wanted:
            if topic not in existing:
                raise UsageError(f"the topic {topic} is not there yet: trunkline topics apply.")
            ends = {slot.partition: offset for slot, offset in control.ends([topic]).items()}
            for record in newest(control, topic, ends, count):
                inputs[f"{topic} {record.partition}@{record.offset}"] = read(registry, record)
        rows = {
            table.name: [read(registry, record) for record in newest_rows(control, table.name)]
            for table in bus.tables
            if table.name in existing
        }
    return {"inputs": inputs, "rows": rows}


def newest_rows(control: Control, table: str) -> list[Record]:
    """Give the last record of every key that has a row."""
    found = {record.key: record for record in control.read(table) if record.key is not None}
    return [record for record in found.values() if record.value is not None]


def read(registry: Schemas, record: Record) -> Data:
    """Give a record with the schema that it was written with."""

    def coded(raw: bytes | None) -> str | None:
        return None if raw is None else base64.b64encode(raw).decode()

    try:
        schema, body = split(record.value)
    except Poison as error:
        return {"topic": record.topic, "poison": str(error)}
    if (text := registry.text_of(schema)) is None:
        return {"topic": record.topic, "poison": f"the value names schema {schema}, which nobody registered"}
    return {
        "topic": record.topic,
        "key": coded(record.key),
        "headers": [[name, coded(value)] for name, value in record.headers],
        "value": coded(body),
        "schema": text,
    }


def answers(bus: Bus, given: list[str]) -> dict[str, Response]:
    """Read what targets answer.

    Raises:
        UsageError: it is no SINK=STATUS.
    """
    names = [
        name
        for sink in bus.sinks
        for name in (sink.name, *(f"{sink.name}/{call.name}" for call in getattr(sink, "calls", ())))
    ]
    found = {}
    for one in given:
        name, _, status = one.partition("=")
        if name not in names:
            raise UsageError(f"--answer {one}: write SINK=STATUS; the sinks are {', '.join(names)}.")
        if STATUS.fullmatch(status) is None:
            raise UsageError(f"--answer {one}: write SINK=STATUS; a status is a number from 100 to 599.")
        found[name] = Response(int(status))
    return found


def compared(name: str, bus: Bus, job: Data, source: str, *, every: bool, as_json: bool) -> None:
    """Print what the working tree does otherwise than a revision; exit with 1 if anything."""
    with checked_out(name) as revision:
        notes = former(job, revision.folder, name, source)
        if not job["inputs"]:
            raise UsageError(f"there is nothing to walk: no example lies in {EXAMPLES}/{source or '<source>'}.")
        with Beside(revision.folder, job) as before, Beside(Path.cwd(), job) as after:
            again = walked(bus, job)
            new, old = after.result("the working tree"), before.result(name)
    found = compare(old, new, again)
    found.notes.extend(notes)
    hide = told.Hiding(old, new)
    if as_json:
        print_json(told.difference_data(found, hide, revision))
    else:
        for line in told.differences(found, hide, revision, every=every):
            out.print(line)
    if found:
        raise typer.Exit(1)


def former(job: Data, folder: Path, name: str, source: str) -> list[str]:
    """Add the examples that only the revision has, and tell which of them are others there: all are walked by both."""
    if not any("source" in given for given in job["inputs"].values()) and job["inputs"]:
        return []
    names = [path.name for path in sorted((folder / EXAMPLES).glob("*")) if path.is_dir() and not source]
    notes = []
    for path, given in examples(names or [source], folder / EXAMPLES).items():
        if path not in job["inputs"]:
            job["inputs"][path] = given
            notes.append(f"{path} is an example in {name} alone; it is walked all the same")
        elif job["inputs"][path] != given:
            notes.append(f"{path} is another one in {name}; both were given the one that is here now")
    return notes
