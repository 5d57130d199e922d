"""What becomes of a body that does what a body should not."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from trunkline.event import Moment
from trunkline.kafka.agents import Actor, app_of

NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)


async def yields_first(stream: Any) -> AsyncIterator[Any]:
    yield "too early"
    async for moment in stream:
        yield moment


async def closes(stream: Any) -> AsyncIterator[Any]:
    async for moment in stream:
        yield moment
        raise GeneratorExit


async def leaves(stream: Any) -> AsyncIterator[Any]:
    async for moment in stream:
        yield moment
        raise SystemExit(3)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (yields_first, "while it has no moment"),
        (closes, "GeneratorExit"),
        (leaves, "3"),
    ],
)
def test_a_body_that_breaks_is_over_and_says_why(body: Callable[[Any], AsyncIterator[Any]], why: str) -> None:
    async def run() -> BaseException | None:
        actor = Actor(app_of("group"), "body", body)
        await actor.start()
        made, failure = await asyncio.wait_for(actor.give([Moment(NOON, None)]), 5)
        assert made == []
        await actor.stop()
        return failure

    failure = asyncio.run(run())
    assert why in f"{type(failure).__name__}: {failure}"
