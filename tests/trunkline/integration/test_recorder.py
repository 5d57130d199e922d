"""From the decision to the ledger and back: the dispatcher hears what stands, over both databases."""

import asyncio
import time
from collections.abc import Callable
from typing import cast

import pytest

from tests.trunkline.support import notes, shelf
from tests.trunkline.unit.making import MAIN, delivery
from trunkline.engine import recorder as recording
from trunkline.engine.delivery import Delivery, Stage
from trunkline.engine.dispatch import Dispatcher, Later, Letter, Policy, Record
from trunkline.engine.recorder import Recorder
from trunkline.flow.declare import Deliver
from trunkline.ledger import deliveries
from trunkline.ledger.database import Ledger
from trunkline.ledger.deliveries import State
from trunkline.ledger.intents import GO, Intent, intend, withdraw
from trunkline.ledger.parks import parked_keys
from trunkline.ledger.writer import Rewound, Writer
from trunkline.verdict import Delivered, Retry

FAR = 4e9
"""A deadline, in epoch seconds, that no test lives to see."""


def recorder_of(
    flow: Deliver,
    core: Dispatcher,
    writer: Writer,
    *,
    keyed: bool = False,
    begin: Callable[[], None] = lambda: None,
    obeyed: Callable[[str], None] = lambda _: None,
    see: Callable[..., None] = lambda *_, **__: None,
) -> Recorder:
    """Give a recorder that tells only what a test asks for."""
    return Recorder(flow, core=core, writer=writer, keyed=keyed, begin=begin, obeyed=obeyed, act=lambda: None, see=see)


def skipped(core: Dispatcher, one: Delivery) -> None:
    """Let an order to skip an event be obeyed, up to its letter."""
    core.turn(0.0)
    [letter] = core.take()
    assert isinstance(letter, Letter)
    assert letter.delivery is one
    core.buried(one)


@pytest.mark.parametrize("after", ["withdrawn", "delivered"])
def test_an_order_obeyed_while_another_worker_calls_is_kept(ledger: Ledger, after: str) -> None:
    """Nothing ends and nothing is parked by an outcome that the ledger does not take (D3, D4, D12, L5)."""
    flow = Deliver(notes("recorder", 1), to=shelf())
    core = Dispatcher(Policy(retry=Retry(), sink="shelf", keyed=False, after_dead="park_key"))
    core.renew(100.0)
    core.assign([MAIN], ())
    one = delivery("a", 1)
    core.skip({"e1"})
    core.arrive(core.looking(), [one], {}, ())
    told: list[str] = []

    async def work() -> None:
        writer = Writer(ledger)
        recorder = recorder_of(flow, core, writer, obeyed=told.append)
        recorder.number = await writer.write(lambda db: deliveries.number_of(db, "shelf"))
        call = Intent(one.place, recorder.number, one.key, 0, 1, one.payload, "other", FAR, FAR / 2, keyed=False)
        assert (await writer.write(lambda db: intend(db, [call])))[one.place] is GO

        async def record() -> None:
            for effect in core.take():
                assert isinstance(effect, Record)
                recorder.record(effect.delivery, effect.state, park=effect.park)
            await recorder.commit()

        skipped(core, one)
        await record()
        assert (told, core.positions(), one.stage) == ([], {MAIN: 1}, Stage.WAITING), "the order was not obeyed"
        [wait] = core.take()
        assert isinstance(wait, Later)
        assert wait.seconds == 22.0, "the call does not last longer, whatever another clock says"
        assert await writer.write(lambda db: parked_keys(db, recorder.number)) == set()
        if after == "delivered":
            done = deliveries.Outcome(
                one.place, recorder.number, State.DONE, one.key, 0, 1, one.payload, 1, one.event.time
            )
            await writer.write(lambda db: deliveries.record(db, [done]))
        else:
            await writer.write(lambda db: withdraw(db, one.place, "other"))
        core.due(one)
        core.turn(0.0)
        core.take()
        assert core.begin(one, 0.0)
        assert await recorder.announce([one]) == [one], "in neither case is it called"
        if after == "withdrawn":
            core.take()
            skipped(core, one)
            await record()
            assert told == ["e1"]
            assert await writer.write(lambda db: parked_keys(db, recorder.number)) == {one.key}
        assert core.positions() == {MAIN: 2}
        await writer.close()

    asyncio.run(work())


def test_a_clock_that_was_put_back_holds_up_what_a_dead_worker_has_begun_no_longer_than_a_call(ledger: Ledger) -> None:
    """By its own clock the call that it had announced goes on for an hour (D4)."""
    flow = Deliver(notes("recorder", 1), to=shelf())
    core = Dispatcher(Policy(retry=Retry(), sink="shelf", keyed=False))
    core.renew(100.0)
    core.assign([MAIN], ())
    one, two = delivery("a", 1), delivery("a", 2)
    core.arrive(core.looking(), [one, two], {}, ())

    async def work() -> None:
        writer = Writer(ledger)
        recorder = recorder_of(flow, core, writer)
        recorder.number = await writer.write(lambda db: deliveries.number_of(db, "shelf"))
        before = time.time() + 3600
        died = Intent(one.place, recorder.number, one.key, 0, 1, one.payload, "dead", before + 22, before, keyed=False)
        assert (await writer.write(lambda db: intend(db, [died])))[one.place] is GO

        core.turn(0.0)
        core.take()
        assert core.begin(one, 0.0)
        assert await recorder.announce([one]) == [one]
        core.turn(0.0)
        assert core.take() == [Later(one, 22.0)]
        core.due(one)
        core.turn(22.0)
        core.take()
        assert core.begin(one, 22.0)
        assert await recorder.announce([one]) == [one]
        core.turn(22.0)
        [letter] = core.take()
        assert isinstance(letter, Letter)
        assert letter.state is State.AMBIGUOUS
        core.buried(one)
        [effect] = core.take()
        assert isinstance(effect, Record)
        recorder.record(one, effect.state, park=effect.park)
        await recorder.commit()
        found = await writer.write(lambda db: deliveries.look_up(db, [one.place]))
        assert found[one.place].state is State.AMBIGUOUS
        assert core.positions() == {MAIN: 2}, "its key goes on"
        await writer.close()

    asyncio.run(work())


class Fallen:
    """A writer whose ledger fell back behind what it had acknowledged."""

    def write(self, _: object) -> "asyncio.Future[None]":
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.set_exception(Rewound("it has lost commits. Run `trunkline ledger rebuild`."))
        return future


def test_a_call_that_a_ledger_without_its_last_commits_is_asked_for_halts_the_flow() -> None:
    """No outcome is due that would say so, for nothing is called."""
    flow = Deliver(notes("recorder", 1), to=shelf())
    core = Dispatcher(Policy(retry=Retry(), sink="shelf", keyed=False))
    core.renew(100.0)
    core.assign([MAIN], ())
    one = delivery("a", 1)
    core.arrive(core.looking(), [one], {}, ())

    async def work() -> None:
        recorder = recorder_of(flow, core, cast("Writer", Fallen()))
        core.turn(0.0)
        core.take()
        assert core.begin(one, 0.0)
        assert await recorder.announce([one]) == [one]

    asyncio.run(work())
    assert core.halted is not None
    assert core.halted.run == "trunkline ledger rebuild"


def test_outcomes_share_a_commit_until_something_waits_for_one_of_them(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What nobody waits for costs no commit of its own; the next of a key never waits for a timer (D3)."""
    monkeypatch.setattr(recording, "GATHER", 3600.0)
    flow = Deliver(notes("recorder", 1), to=shelf())
    core = Dispatcher(Policy(retry=Retry(), sink="shelf"))
    core.renew(100.0)
    core.assign([MAIN], ())
    batch = [delivery("a", 1), delivery("b", 2), delivery("c", 3), delivery("c", 4)]
    core.arrive(core.looking(), batch, {}, ())
    groups: list[int] = []

    async def work() -> None:
        writer = Writer(ledger)
        tasks: list[asyncio.Task[None]] = []
        recorder = recorder_of(
            flow,
            core,
            writer,
            keyed=True,
            begin=lambda: tasks.append(asyncio.create_task(recorder.commit())),
            see=lambda what, **more: groups.append(more["count"]) if what == "recorded" else None,
        )
        recorder.number = await writer.write(lambda db: deliveries.number_of(db, "shelf"))
        core.turn(0.0)
        core.take()
        for one in batch[:3]:
            assert core.begin(one, 0.0)
            core.answered(one, Delivered(200), 0.0, lambda: 0.0)
            for effect in core.take():
                assert isinstance(effect, Record)
                recorder.record(effect.delivery, effect.state, park=effect.park)
            await asyncio.sleep(0)
        [committing] = tasks
        await committing
        assert groups == [3], "the third, for which the fourth event waits, takes the others along"
        assert core.positions() == {MAIN: 4}
        await writer.close()

    asyncio.run(work())
