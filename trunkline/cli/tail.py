"""The newest records of a topic, decoded."""

import itertools
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from typing import Annotated, Any

import typer

from trunkline.cli.project import cluster_of, load_bus, out, safe, talk
from trunkline.cli.show import Curtain, curtain_of, hex_start, line, moment
from trunkline.flow.declare import schemas_of
from trunkline.kafka.control import Control, Record
from trunkline.kafka.registry import registry_of
from trunkline.settings import load


def tail(
    topic: Annotated[str, typer.Argument(metavar="TOPIC", help="The topic's name.")],
    last: Annotated[int, typer.Option("--last", "-n", min=0, help="How many of the newest records.")] = 10,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what arrives, until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per record, each on a line.")] = False,
) -> None:
    """Print the newest records of a topic, oldest first, decoded by the schemas of this bus."""
    settings, bus = load(), load_bus()
    cluster = cluster_of(settings)
    curtain = curtain_of(bus, topic)
    with Control(cluster) as control, closing(registry_of(settings.kafka, cluster, schemas_of(bus))) as registry:
        ends = {slot.partition: offset for slot, offset in control.ends([topic]).items()}
        shown = newest(control, topic, ends, last)
        records: Iterator[Record] = iter(shown)
        if follow:
            talk.print(f"Following {topic}; Ctrl-C ends it.", markup=False)
            records = itertools.chain(records, control.read(topic, start=ends, follow=True))
        with suppress(KeyboardInterrupt):
            for record in records:
                value, problem = curtain.decode(registry, record.value)
                if as_json:
                    typer.echo(line(as_data(record, curtain, value, problem)))
                else:
                    show(record, curtain, value, problem)
    if not shown and not follow and last:
        talk.print(f"{topic} has no records.", markup=False)


def newest(control: Control, topic: str, ends: Mapping[int, int], count: int) -> list[Record]:
    """Give the newest records before these ends by their time, oldest first.

    Offsets have gaps where transactions ended and where a topic is compacted, so each partition is read from further
    and further back until there are enough.
    """
    found: list[Record] = []
    for slot, low in control.beginnings([topic]).items():
        end, back = ends[slot.partition], count
        while count and low < end:
            begin = max(low, end - back)
            records = list(control.read(topic, partition=slot.partition, start={slot.partition: begin}))
            records = [record for record in records if record.offset < end]
            if len(records) >= count or begin == low:
                found += records[-count:]
                break
            back *= 4
    found.sort(key=lambda record: (record.timestamp, record.partition, record.offset))
    return found[-count:] if count else []


def show(record: Record, curtain: Curtain, value: Any, problem: str | None) -> None:
    """Print one record for a person."""
    headers = {name: content or "" for name, content in curtain.headers(record.headers)}
    key = curtain.key_of(record.key)
    happened = headers.pop("ce_time", None)
    times = moment(record.timestamp) + (f"  ce_time {happened}" if happened else "")
    out.print(safe(f"{record.partition}@{record.offset}  key {'-' if key is None else key}  {times}"), style="bold")
    for name, content in headers.items():
        out.print(safe(f"  {name}: {content}"), markup=False)
    if problem is None:
        out.print(safe(f"  {line(value)}"), markup=False)
    elif record.value is None:
        out.print("  no value")
    else:
        out.print(safe(f"  not decoded: {problem}"), markup=False)
        out.print(f"  {hex_start(record.value)}", markup=False)


def as_data(record: Record, curtain: Curtain, value: Any, problem: str | None) -> dict[str, Any]:
    """Give one record for programs; what cannot be decoded is there in hex."""
    headers = curtain.headers(record.headers)
    return {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "key": curtain.key_of(record.key),
        "timestamp": moment(record.timestamp),
        "ce_time": dict(headers).get("ce_time"),
        "headers": headers,
        "value": value,
        **({} if problem is None else {"not_decoded": problem, "hex": (record.value or b"").hex()}),
    }
