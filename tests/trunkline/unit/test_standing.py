"""How the flows of a large bus stand is asked together, and told in few lines."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from trunkline.cli.status import alarms
from trunkline.kafka.events import Slot
from trunkline.operate.status import Standing, next_records

THEN = datetime(2026, 3, 1, tzinfo=UTC)


class Broker:
    """A broker on which a record is written every second, and partition 9 ends with a mark."""

    def __init__(self) -> None:
        self.asked: list[dict[Slot, int]] = []

    def first_times(self, begin: Mapping[Slot, int]) -> dict[Slot, datetime]:
        self.asked.append(dict(begin))
        return {slot: THEN + timedelta(seconds=offset) for slot, offset in begin.items() if slot.partition != 9}


def test_the_next_records_of_hundreds_of_flows_are_read_at_once_also_where_two_read_one_topic() -> None:
    waiting = {f"flow-{number}": {Slot(f"t{number}", 0): number, Slot(f"t{number}", 9): 1} for number in range(300)}
    waiting["other"] = {Slot("t7", 0): 70, Slot("t8", 0): 80}
    broker: Any = Broker()
    found = next_records(broker, waiting)
    assert len(broker.asked) == 2
    assert found["flow-7"] == {Slot("t7", 0): THEN + timedelta(seconds=7)}
    assert found["other"] == {Slot("t7", 0): THEN + timedelta(seconds=70), Slot("t8", 0): THEN + timedelta(seconds=80)}
    assert found.keys() == waiting.keys()
    assert next_records(broker, {"idle": {}}) == {"idle": {}}


def test_flows_that_nobody_runs_are_started_one_by_one_or_when_they_are_many_all_at_once() -> None:
    one, two = (Standing(name, "deliver", "t", workers=0, lag=3) for name in ("one", "two"))
    [alone] = alarms(one)
    assert "trunkline run one;" in alone
    [together] = {line for flow in (one, two) for line in alarms(flow, idle=True)}
    assert "trunkline run;" in together
