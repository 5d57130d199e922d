"""What `trunkline schema` prints, to the letter."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trunkline.cli.main import app

Say = Callable[..., tuple[str, str, int]]


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Say:
    """Run a command and give what it prints, what it complains of, and its exit code."""

    def run(*arguments: str) -> tuple[str, str, int]:
        monkeypatch.setattr(sys, "argv", ["trunkline", "schema", *arguments])
        code = 0
        try:
            app()
        except SystemExit as ended:
            code = int(ended.code or 0)
        said = capsys.readouterr()
        return said.out, said.err, code

    return run


@pytest.fixture
def parcels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder with three versions of a schema."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "schemas").mkdir()
    line: dict[str, Any] = {"type": "record", "name": "Line", "fields": [{"name": "sku", "type": "string"}]}
    longer = {**line, "fields": [*line["fields"], {"name": "count", "type": "int", "default": 1}]}
    money = {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 2}
    state = {"type": "enum", "name": "State", "symbols": ["NEW", "SENT"]}
    versions: list[list[dict[str, Any]]] = [
        [{"name": "id", "type": "string"}, {"name": "lines", "type": {"type": "array", "items": line}},
         {"name": "state", "type": state}, {"name": "old", "type": "string"}],
        [{"name": "id", "type": "string"}, {"name": "lines", "type": {"type": "array", "items": longer}},
         {"name": "state", "type": {**state, "symbols": ["NEW", "SENT", "LOST"]}},
         {"name": "new", "type": ["null", "string"], "default": None, "aliases": ["old"]},
         {"name": "paid", "type": money}],
        [{"name": "id", "type": "long"}, {"name": "paid", "type": {**money, "scale": 3}, "sensitive": True}],
    ]  # fmt: skip
    for number, fields in enumerate(versions, 1):
        definition = {"type": "record", "name": "Parcel", "namespace": "post", "fields": fields}
        (tmp_path / f"schemas/parcel.v{number}.avsc").write_text(json.dumps(definition))
    return tmp_path


@pytest.mark.usefixtures("parcels")
def test_diff(say: Say) -> None:
    assert say("diff", "parcel.v1", "parcel.v2") == (
        """\
parcel.v1 → parcel.v2
  ~ state  enum post.State (NEW, SENT) → enum post.State (NEW, SENT, LOST)
  - old  string
  + lines[].count  int = 1
  + new  null or string = null (was old)
  + paid  decimal of 12 digits, 2 behind the point
v2 reads v1: no: paid is new and has no default
v1 reads v2: no: state has no LOST any more, and no default for it; old is new and has no default
""",
        "",
        0,
    )
    assert say("diff", "parcel") == (
        """\
parcel.v2 → parcel.v3
  ~ id  string → long
  - lines  array of record post.Line
  - lines[].sku  string
  - lines[].count  int = 1
  - state  enum post.State (NEW, SENT, LOST)
  - new  null or string = null (was old)
  ~ paid  decimal of 12 digits, 2 behind the point → decimal of 12 digits, 3 behind the point (sensitive)
v3 reads v2: no: id is long, and was string; paid is bytes (decimal of scale 3), and was bytes (decimal of scale 2)
v2 reads v3: no: id is string, and was long; lines is new and has no default; state is new and has no default; \
paid is bytes (decimal of scale 2), and was bytes (decimal of scale 3)
""",
        "",
        0,
    )
    assert say("diff", "parcel.v3", "parcel.v3") == (
        "parcel.v3 → parcel.v3\n  nothing differs\nv3 reads v3: yes\nv3 reads v3: yes\n",
        "",
        0,
    )
    assert say("diff", "parcels") == (
        "",
        "trunkline: there is no schema parcels; there are: parcel.v1, parcel.v2, parcel.v3.\n",
        2,
    )


def test_diff_of_what_has_no_other_version_and_of_two_schemas(say: Say, parcels: Path) -> None:
    assert say("diff", "parcel.v3") == (
        "",
        (
            "trunkline: parcel.v3 is the newest version, so there is none to compare it with."
            " Add schemas/parcel.v4.avsc, or name two versions.\n"
        ),
        2,
    )
    letter = {"type": "record", "name": "Letter", "fields": [{"name": "id", "type": "string"}]}
    (parcels / "schemas/letter.v1.avsc").write_text(json.dumps(letter))
    assert say("diff", "letter")[2] == 2
    assert say("diff", "parcel.v1", "letter")[0].startswith("parcel.v1 → letter.v1\n")


@pytest.mark.parametrize("command", [("check",), ("diff", "parcel"), ("types",), ("ls",)])
def test_a_schema_that_cannot_be_used_is_named_by_its_file(
    say: Say, parcels: Path, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trunkline.cli.schema.load_bus", lambda: None)
    inside = {"type": "record", "name": "Parcel", "fields": [{"name": "next", "type": ["null", "Parcel"]}]}
    (parcels / "schemas/parcel.v4.avsc").write_text(json.dumps(inside))
    assert say(*command) == ("", "trunkline: schemas/parcel.v4.avsc: recursive: Parcel is inside itself.\n", 2)


def test_show_and_ls(say: Say) -> None:
    out, err, code = say("show", "stock_movement")
    head = "stock_movement.v1  shop.StockMovement.v1  on shop.stock-movements\nversions: v1\n"
    assert (err, code) == ("", 0)
    assert out.startswith(head)
    assert json.loads(out.removeprefix(head)) == json.loads(Path("schemas/stock_movement.v1.avsc").read_text())
    listed = json.loads(say("ls", "--json")[0])
    [row] = [row for row in listed if row["name"] == "stock_movement"]
    assert row == {
        "name": "stock_movement",
        "version": 1,
        "event_type": "shop.StockMovement.v1",
        "fields": ["sku", "delta", "basket_id", "store_id"],
        "topics": ["shop.stock-movements"],
    }
    table = say("ls")[0].splitlines()
    assert table[0].split() == ["schema", "event", "fields", "topics"]
    assert [line.split()[0] for line in table[1:]] == [f"{row['name']}.v{row['version']}" for row in listed]
