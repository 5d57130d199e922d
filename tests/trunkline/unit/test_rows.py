"""What a step gets of a table, and what becomes of an event whose row is missing (P4)."""

from collections.abc import Mapping
from typing import Any

import pytest

from tests.trunkline.unit.schemas import CustomerV1
from trunkline import Table, wait
from trunkline.errors import Absent, Halt
from trunkline.flow.rows import asked
from trunkline.verdict import Guard

ROWS: Mapping[str, Any] = {"7": {"customer": "7", "city": "Bern"}}


def table(missing: Any) -> Table:
    return Table("customers", CustomerV1, key="customer", missing=missing)


def test_nothing_is_what_a_missing_row_is_unless_declared_otherwise() -> None:
    rows = asked(Table("customers", CustomerV1, key="customer"), ROWS)
    assert rows is ROWS


@pytest.mark.parametrize(("missing", "patience"), [("dead", 0.0), (wait(30), 30.0)])
def test_whichever_way_a_step_asks_for_a_missing_row_it_is_told(missing: Any, patience: float) -> None:
    rows = asked(table(missing), ROWS)
    for ask in (rows.__getitem__, rows.get, lambda key: rows.get(key, {}), rows.__contains__):
        with pytest.raises(Absent, match=r'^customers has no row "8"$') as absent:
            ask("8")
        assert absent.value.patience == patience
    assert rows["7"] is rows.get("7") is ROWS["7"]
    assert "7" in rows
    assert (list(rows), len(rows)) == (["7"], 1)


@pytest.mark.parametrize("missing", ["dead", wait(30)])
def test_a_row_for_null_is_not_waited_for(missing: Any) -> None:
    rows: Any = asked(table(missing), ROWS)
    for ask in (rows.__getitem__, rows.get, rows.__contains__):
        with pytest.raises(Absent, match=r"^customers has no row for null$") as absent:
            ask(None)
        assert absent.value.patience == 0.0


def test_twenty_missing_rows_in_a_row_are_no_fault_of_the_events() -> None:
    """A table that nobody has filled must not dead-letter a topic (DESIGN §5)."""
    rows, guard = asked(table("dead"), {}), Guard()
    verdicts = []
    for number in range(21):
        with pytest.raises(Absent) as absent:
            rows.get(f"{number}")
        verdicts.append(guard.consider(absent.value, b"%d" % number))
    assert isinstance(verdicts.pop(), Halt)
    assert verdicts
    assert all(isinstance(verdict, Absent) for verdict in verdicts)
