"""The account itself: it names every way in which what came out does not match what came in."""

import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.trunkline.faults import canary
from tests.trunkline.faults.account import Account, Input, Place, Target, account, digest
from trunkline.dev.target.records import SCHEMA

INPUTS = [
    Input("s", f"{box}-{number}", box, f"/{box}/{number}", Place(0, 2 * number)) for number in range(3) for box in "ab"
]
DONE = [one.path for one in INPUTS]


def balance(
    folder: Path,
    *,
    applied: list[str] = DONE,
    twice: str = "",
    states: dict[str, str] | None = None,
    letters: dict[str, list[str]] | None = None,
    committed: int = 6,
    beside: tuple[str, str] | None = None,
) -> Account:
    """Balance a history in which everything was delivered, but for what is given."""
    database = folder / "target.db"
    with closing(sqlite3.connect(database)) as db:
        db.executescript(SCHEMA)
        for seq, path in enumerate(applied):
            times = 1 + (path == twice)
            db.execute("INSERT INTO attempts VALUES (?, 'api', ?, ?, 'x', 200, 0, 0)", (seq, path, path))
            db.execute(
                "INSERT INTO effects VALUES ('api', ?, 'POST', ?, '', 'x', 0, ?, ?, 0)", (path, path, seq, times)
            )
        if beside is not None:
            seqs = [db.execute("SELECT seq FROM attempts WHERE path = ?", (path,)).fetchone()[0] for path in beside]
            db.execute("INSERT INTO overlaps VALUES (?, ?, 'api')", seqs)
        db.commit()
    known = {one.id: "done" for one in INPUTS} | (states or {})
    return account(
        INPUTS,
        sink="shelf",
        states={digest("shelf", "s", name)[:16]: state for name, state in known.items() if state},
        letters={("s", name): kinds for name, kinds in (letters or {}).items()},
        target=Target(database, "api", "shelf"),
        committed={0: committed},
    )


def test_what_balances_passes(tmp_path: Path) -> None:
    found = balance(tmp_path)
    found.check()
    assert (found.states, found.attempts) == ({"done": 6}, 6)


def test_a_letter_balances_a_dead_event(tmp_path: Path) -> None:
    applied = [path for path in DONE if path != "/a/1"]
    balance(tmp_path, applied=applied, states={"a-1": "dead"}, letters={"a-1": ["permanent"]}).check()


@pytest.mark.parametrize(
    ("invariant", "wrong"),
    [
        ("lost", {"applied": DONE[:-1]}),
        ("lost", {"applied": DONE[:-1], "states": {"b-2": "dead"}}),
        ("lost", {"applied": DONE[:-1], "states": {"b-2": "intent"}}),
        ("duplicates", {"twice": "/a/1"}),
        ("inversions", {"applied": ["/a/1", "/b/0", "/a/0", "/b/1", "/a/2", "/b/2"]}),
        ("unaccounted", {"states": {"a-1": ""}}),
        ("unaccounted", {"states": {"a-1": "dead"}, "letters": {"a-1": ["permanent"]}}),
        ("unaccounted", {"applied": [*DONE, "/c/1"]}),
        ("crossed", {"beside": ("/a/1", "/a/2")}),
        ("doubled", {"beside": ("/a/1", "/a/1")}),
        ("stale", {"letters": {"a-1": ["permanent"]}}),
    ],
)
def test_what_does_not_balance_is_named(tmp_path: Path, invariant: str, wrong: dict[str, object]) -> None:
    with pytest.raises(AssertionError, match=f"^invariant {invariant}:"):
        balance(tmp_path, **wrong).check()  # type: ignore[arg-type]  # one of its own arguments


def test_an_offset_that_is_committed_too_early_is_named(tmp_path: Path) -> None:
    found = balance(tmp_path, states={"a-2": ""}, committed=5)
    assert found.ahead == ["a-2 (no row, 1 effects, letters [])"]


def test_canaries_are_found_in_every_form() -> None:
    chance = random.Random(7)  # noqa: S311 - canaries that can be made again
    secrets = {"key": canary.plant(chance), "signing": canary.signing(chance)}
    canary.prove(secrets)
    assert canary.search({"a": b"nothing"}, secrets) == []
