"""`trunkline walk SOURCE [FILE]`: a request's journey, told in the terminal and as data."""

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from topology import storefront
from trunkline.cli.main import commands
from trunkline.errors import UsageError
from trunkline.flow.walk import example


def walk(*arguments: str, stdin: bytes = b"") -> Result:
    return CliRunner().invoke(commands, ["walk", *arguments], input=stdin)


def test_a_journey_is_told_hop_by_hop() -> None:
    """The example is walked with the rows of producers/examples/tables.json."""
    result = walk("storefront", "milk_and_coupon.json")
    assert result.exit_code == 0, result.output
    path = Path(__file__).parent / "golden" / "journey.txt"
    if os.environ.get("GOLDEN") == "write":
        path.write_text(result.output)
    assert result.output == path.read_text()


def test_a_journey_is_data_too(tmp_path: Path) -> None:
    (tmp_path / "none.json").write_text("{}")
    journey = json.loads(walk("storefront", "--json", "--tables", str(tmp_path / "none.json")).output)["journeys"][
        "storefront/milk_and_coupon.json"
    ]
    assert [hop["hop"] for hop in journey["hops"] if hop["hop"] != "unknown"] == [
        *("parsed", "step", "step", "route", "route", "call", "call")
    ]
    assert journey["hops"][4]["saw"]["/campaigns"] == []
    [first, _] = [hop for hop in journey["hops"] if hop["hop"] == "call"]
    assert first["request"]["body"] == {"json": {"delta": -1}}


def test_an_answer_is_judged() -> None:
    assert "permanent: answered 422" in walk("storefront", "--answer", "warehouse=422").output


def test_what_is_piped_in_is_walked_and_what_is_wrong_is_told_as_the_sender_would_be() -> None:
    told = walk("storefront", "-", stdin=b'{"basket_id": "7"}').output
    assert "rejected  422 The event is not valid" in told
    assert "Wrong or missing: household_id, store_id, sold_at, lines. household_id: Field required; " in told
    told = walk("storefront", "-", stdin=b"[]").output
    assert "Wrong or missing: the body. the body: Input should be an object" in told


def test_a_file_that_a_desktop_hides_is_no_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would come first: `send --example` posted it."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "producers" / "examples" / "storefront"
    folder.mkdir(parents=True)
    for name in (".DS_Store", "one.json"):
        (folder / name).touch()
    assert example(storefront).name == "one.json"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "say whose request it is: trunkline walk storefront"),
        (("nobody",), "there is no source nobody"),
        (("storefront", "nothing"), "there is no example nothing"),
        (("storefront", "--answer", "warehouse"), "write SINK=STATUS"),
        (("storefront", "--answer", "warehose=422"), "the sinks are warehouse, marketing."),
        (("storefront", "--answer", "warehouse/book=422"), "the sinks are warehouse, marketing."),
        (("storefront", "--answer", "warehouse=42"), "a status is a number from 100 to 599"),
        (("storefront", "--answer", "warehouse=1000"), "a status is a number from 100 to 599"),
        (("storefront", "--answer", "warehouse=²"), "a status is a number from 100 to 599"),
        (("storefront", "--diff", ""), "--diff is empty: name the git revision"),
        (("storefront", "--all"), "add --diff REV"),
        (("storefront", "--tables", "nowhere.json"), "nowhere.json: No such file"),
        (("storefront", "--diff", "HEAD", "--answer", "warehouse=200"), "do not go together"),
        (("shop.sales", "one.json", "--last", "3"), "leave one.json out"),
        (("shop.nothing", "--last", "3"), "there is no topic shop.nothing"),
    ],
)
def test_wrong_use_is_told(arguments: tuple[str, ...], said: str) -> None:
    result = walk(*arguments)
    assert isinstance(result.exception, UsageError)
    assert said in str(result.exception)


def test_no_events_are_no_walk() -> None:
    assert walk("shop.sales", "--last", "0").exit_code == 2


def test_rows_that_do_not_fit_are_told(tmp_path: Path) -> None:
    rows = {"shop.products": {"1": {"departement": "X"}, "2": {"department": 7}}, "shop.stock": {}}
    (tmp_path / "tables.json").write_text(json.dumps(rows))
    told = walk("storefront", "--tables", str(tmp_path / "tables.json")).output
    assert "the row 1 of shop.products is left out: ProductV1 has no departement" in told
    assert "the row 2 of shop.products is left out: department: Input should be a valid string" in told
    assert "rows are given for shop.stock, which is no table that a step looks up" in told
