"""Buses whose target is the witness."""

from collections.abc import Mapping, Sequence
from typing import Any

from tests.trunkline.schemas import MarkV1, NoteWrittenV1
from tests.trunkline.support import QUICK, Desk, Shelf, inspect, marks_of, notes
from trunkline import (
    Bus,
    Deliver,
    Enrich,
    Event,
    Lookup,
    Process,
    Publish,
    Retry,
    Secret,
    Table,
    Target,
    Topic,
    env,
    minutes,
)
from trunkline.adapters import Item
from trunkline.sinks import Request
from trunkline.sources import StandardWebhooks

ONCE = Retry(give_up_after=minutes(1))


class Together(Shelf):
    """One POST for several events."""

    together = 10

    def batch(self, items: Sequence[Item[Any]]) -> Request:
        return Request.post("/all", json=[item.event.data["number"] for item in items])


def heard() -> Target:
    return Target("heard", env("HEARD_URL"))


def look_up(
    event: Event[NoteWrittenV1], known: Mapping[str, NoteWrittenV1], titles: Mapping[str, NoteWrittenV1]
) -> Event[NoteWrittenV1]:
    """Ask a table and a target for rows that they have not."""
    assert known.get("none") is None
    assert titles.get(event.data["box"] or "") is None
    return event


def traced_bus(prefix: str) -> Bus:
    topic = notes(prefix, 1)
    marks = Topic(f"{prefix}.marks", MarkV1, key="box", partitions=1)
    known = Table(f"{prefix}.known", NoteWrittenV1, key="note_id")
    titles = Lookup("titles", Target("catalogue", env("HEARD_URL")), "/titles/{key}", NoteWrittenV1, "box")
    return Bus(
        prefix,
        [
            Publish(Desk(StandardWebhooks(Secret("DESK_SECRET"))), to=topic),
            Process(topic, [inspect, Enrich(look_up, known, titles)], to={marks: marks_of}),
            Deliver(marks, to=Shelf(heard()), retry=ONCE),
        ],
    )


def together_bus(prefix: str) -> Bus:
    return Bus(prefix, [Deliver(notes(prefix, 1), to=Together(heard()), retry=ONCE)])


def guarded_bus(prefix: str) -> Bus:
    """Deliver to a target that is left alone when it fails."""
    shelf = Shelf(Target("shelf", env("SHELF_URL")))
    return Bus(prefix, [Deliver(notes(prefix, 1), to=shelf, retry=QUICK)])
