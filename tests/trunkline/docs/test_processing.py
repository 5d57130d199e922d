"""The examples of docs/processing.md about enrichment run, and do what the page says."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.trunkline.support import WHEN
from trunkline import Event
from trunkline.errors import Absent
from trunkline.flow.rows import asked

PAGE = Path("docs/processing.md")
EXAMPLE = re.compile(r"<!-- example: (?P<name>\w+) -->\n```python\n(?P<body>.*?)```\n", re.DOTALL)


def example(name: str) -> dict[str, Any]:
    """Run an example of the page and give what it defines."""
    [body] = [match["body"] for match in EXAMPLE.finditer(PAGE.read_text()) if match["name"] == name]
    defined: dict[str, Any] = {}
    exec(body, defined)  # noqa: S102 - the page is ours
    return defined


def test_a_table_is_a_dict_to_a_test_and_a_missing_row_is_what_was_declared() -> None:
    defined = example("table")
    sale = Event("1", WHEN, {"basket_id": "b", "household_id": "7", "store_id": "s", "lines": []})
    rows: dict[str, Any] = {"7": {"household_id": "7", "age": "35-44", "income": None, "campaigns": []}}
    assert defined["with_age"](sale, rows).data["store_id"] == "s/35-44"
    with pytest.raises(Absent) as absent:
        defined["with_age"](sale, asked(defined["households"], {}))
    assert absent.value.patience == 30
    assert absent.value.args == ('shop.households has no row "7"',)
