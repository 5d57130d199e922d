"""What is raised in the code of adapters, and is no Exception."""

import asyncio
import signal

import pytest

from trunkline.errors import Permanent, pass_on


@pytest.mark.parametrize(
    "error", [ValueError(), Permanent("no"), SystemExit(1), GeneratorExit(), asyncio.CancelledError()]
)
def test_what_asks_nobody_to_end_is_kept(error: BaseException) -> None:
    pass_on(error)


def test_an_interrupt_is_a_persons_where_python_raises_it() -> None:
    with pytest.raises(KeyboardInterrupt):
        pass_on(KeyboardInterrupt())
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a worker, which hears of it otherwise
    try:
        pass_on(KeyboardInterrupt())
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_task_that_is_cancelled_ends_and_one_that_is_not_goes_on() -> None:
    async def waits() -> None:
        try:
            await asyncio.sleep(60)
        except BaseException as caught:  # noqa: BLE001 - what it is about
            pass_on(caught)

    async def run() -> None:
        pass_on(asyncio.CancelledError())
        task = asyncio.create_task(waits())
        await asyncio.sleep(0)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(run())
