"""`trunkline target`: with a worker that obeys."""

import secrets
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest

from tests.trunkline.integration.test_delivering import finished
from tests.trunkline.support import Stage, deliver_bus, note, wait_for
from trunkline.cli.status import alarms
from trunkline.cli.target import state_of, unused
from trunkline.dev.target.behaviour import Behaviour
from trunkline.engine.targets import order_name
from trunkline.errors import UsageError
from trunkline.flow.declare import Breaker, Bus
from trunkline.kafka import orders
from trunkline.kafka.control import Control
from trunkline.kafka.events import Sender
from trunkline.kafka.orders import Command
from trunkline.operate import status, targets
from trunkline.operate.control import Desk, topic_of


def command() -> Command:
    return Command(secrets.token_hex(4), "ops@here", datetime.now(UTC), "maintenance")


def test_a_paused_target_is_not_called_until_it_is_resumed(stage: Stage) -> None:
    bus = stage.make(deliver_bus(stage.prefix))
    with (
        stage.running(bus) as running,
        Control(stage.cluster) as control,
        closing(Sender(stage.cluster)) as sender,
    ):
        desk = Desk(bus, stage.cluster, control, sender, 20)
        assert targets.pause(desk, "shelf", command()).complete
        stage.write(bus, [note(1), note(2)])
        wait_for(lambda: running.counted(next(iter(bus.delivering)))["read"] == 2)
        [standing] = standings_of(bus, stage, control)
        assert standing.paused is not None
        [flow] = bus.delivering
        assert targets.troubled([standing]) == {flow: ("shelf is paused by ops@here (maintenance)",)}
        held = orders.current(stage.cluster, topic_of(bus, control))
        [told] = [one for one in status.standings(bus, control, None, held, datetime.now(UTC)) if one.flow == flow]
        assert told.targets == ("shelf is paused by ops@here (maintenance)",)
        [line] = alarms(told)
        assert line.startswith("the target shelf is paused by ops@here (maintenance): its events wait")
        assert (standing.paused.why, standing.shares) == ("maintenance", {next(iter(bus.delivering)): 1.0})
        assert stage.attempts() == []
        assert targets.resume(desk, "shelf", command()).complete
        wait_for(finished(stage, bus))
        [standing] = standings_of(bus, stage, control)
        assert standing.paused is None
        assert targets.troubled([standing]) == {}
        ordered = [(one.outcome, one.flow, one.detail) for one in running.seen if one.what == "ordered"]
        assert ordered == [(what, "target:shelf", "ops@here (maintenance)") for what in ("pause", "resume")]
    assert set(stage.effects().values()) == {1}
    with stage.running(bus) as another:
        assert "ordered" not in [one.what for one in another.seen], "what was ordered before its time is no news"


def test_a_person_ends_a_wish_to_wait_that_was_too_long(stage: Stage) -> None:
    bus = stage.make(deliver_bus(stage.prefix))
    stage.target.control.break_(Behaviour(name=stage.prefix, match="/a/1", status=429, retry_after=10**9))
    stage.write(bus, [note(1, "a")])
    with (
        stage.running(bus) as running,
        Control(stage.cluster) as control,
        closing(Sender(stage.cluster)) as sender,
    ):
        wait_for(lambda: "told to wait" in [one.what for one in running.seen])
        stage.target.control.heal(stage.prefix)
        stage.write(bus, [note(1, "b")])
        wait_for(lambda: running.counted(next(iter(bus.delivering)))["read"] == 2)
        assert stage.effects() == {}
        assert targets.resume(Desk(bus, stage.cluster, control, sender, 20), "shelf", command()).complete
        wait_for(lambda: stage.effects() == {"/b/1": 1})  # the event that was refused waits for its own time


@pytest.mark.faults(group="targets")
@pytest.mark.timeout(300)
def test_what_a_flow_leaves_of_its_share_is_said(stage: Stage) -> None:
    bus = stage.make(deliver_bus(stage.prefix, limit=20))
    [flow] = bus.delivering
    stage.write(bus, [note(number, f"k{number}") for number in range(400)])
    with Control(stage.cluster) as control, stage.running(bus):
        wait_for(lambda: 17 <= standings_of(bus, stage, control)[0].paces[flow] <= 22, seconds=40)
        busy = standings_of(bus, stage, control)[0]
        assert unused(busy, flow) in {f" ({left} of 20 a second unused)" for left in (0, 1, 2, 3)}
        wait_for(finished(stage, bus), seconds=60)
        wait_for(lambda: standings_of(bus, stage, control)[0].paces[flow] == 0, seconds=40)
        assert unused(standings_of(bus, stage, control)[0], flow) == " (20 of 20 a second unused)"


@pytest.mark.faults(group="targets")
def test_a_target_that_is_down_is_said_to_be(stage: Stage) -> None:
    bus = stage.make(deliver_bus(stage.prefix, breaker=Breaker(pause=timedelta(seconds=1))))
    stage.target.control.break_(Behaviour(name=stage.prefix, status=503))
    stage.write(bus, [note(1, box) for box in "abcdefghijkl"])
    with Control(stage.cluster) as control:
        with stage.running(bus):
            wait_for(lambda: standings_of(bus, stage, control)[0].told in ({"down": 1}, {"probing": 1}), seconds=30)
            [down] = standings_of(bus, stage, control)
            assert state_of(down) in {"down at 1 of 1 worker", "probing at 1 of 1 worker"}
            [words] = targets.troubled([down]).values()
            assert words[0] in {f"shelf is {word} at 1 of 1 worker" for word in ("down", "probing")}
            stage.target.control.heal(stage.prefix)
            wait_for(lambda: not standings_of(bus, stage, control)[0].told, seconds=30)
            assert state_of(standings_of(bus, stage, control)[0]) == "may be called"
        [gone] = standings_of(bus, stage, control)
        assert state_of(gone) == "called by no worker"


def test_a_target_that_nothing_calls_is_named(stage: Stage) -> None:
    with pytest.raises(UsageError, match=r"there is no target shelves. The targets are: shelf."):
        targets.target_of(deliver_bus(stage.prefix), "shelves")
    assert order_name("shelf") == "target:shelf"


def standings_of(bus: Bus, stage: Stage, control: Control) -> list[targets.Standing]:
    return targets.standings(bus, orders.current(stage.cluster, topic_of(bus, control)), datetime.now(UTC))
