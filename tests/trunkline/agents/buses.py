"""A body that counts and misses, a bus for it, and what may be asked of it by the text of a note."""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path

from tests.trunkline.schemas import MarkV1, NoteWrittenV1
from tests.trunkline.support import Desk, notes
from trunkline import Agent, Bus, Event, Publish, Secret, Stream, Topic
from trunkline.sources import StandardWebhooks

WINDOW = timedelta(seconds=2)


async def tally(stream: Stream[NoteWrittenV1], window: timedelta) -> AsyncIterator[Event[MarkV1]]:
    """Mark every note with how many of its box came within the window; miss each "open" whose "close" does not come.

    "raise", "cancel", "block", "return" and "wrong" do what they say; `wait:FILE` fails until there is such a file, and
    `once:FILE` hangs if there is none, leaving one.
    """
    times: defaultdict[str | None, list[datetime]] = defaultdict(list)
    open_: dict[str | None, tuple[datetime, Event[NoteWrittenV1]]] = {}
    async for at, note in stream:
        for box, (since, one) in list(open_.items()):
            if since + window <= at:
                del open_[box]
                yield one.having({"box": box, "number": one.data["number"], "text": "missed"})
        if note is None:
            continue
        box, text = note.data["box"], note.data["text"]
        times[box] = [time for time in (*times[box], at) if time > at - window]
        if text == "open":
            open_[box] = at, note
        elif text == "close":
            open_.pop(box, None)
        await obey(text)
        if text == "return":
            return
        if text == "wrong":
            yield note.having({"box": box, "number": "many", "text": text})  # type: ignore[typeddict-item]  # on purpose
        yield note.having({"box": box, "number": note.data["number"], "text": f"{len(times[box])}"})


async def obey(text: str) -> None:
    """Do what a note asks for."""
    what, _, path = text.partition(":")
    there = Path(path).exists()  # noqa: ASYNC240 - as a bad body would
    if what == "raise":
        raise ValueError(text)
    if what == "cancel":
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)
    if what == "wait" and not there:
        raise ConnectionError("nobody there")
    if what == "once" and not there:
        Path(path).touch()  # noqa: ASYNC240
        await asyncio.Event().wait()
    if what == "block":
        time.sleep(1000)  # noqa: ASYNC251


def tally_bus(prefix: str, partitions: int = 2, window: float = 2.0) -> Bus:
    topic = notes(prefix, partitions)
    marks = Topic(f"{prefix}.marks", MarkV1, key="box", partitions=partitions)
    return Bus(
        prefix,
        [
            Publish(Desk(StandardWebhooks(Secret("DESK_SECRET"))), to=topic),
            Agent(topic, tally, to=marks, window=timedelta(seconds=window)),
        ],
    )
