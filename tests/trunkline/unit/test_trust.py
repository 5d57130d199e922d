import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.errors import Halt
from trunkline.ledger.identity import Identity
from trunkline.ledger.trust import Create, Fine, state_of_ledger, worked

OURS, OTHER = Identity("a" * 32, 2), Identity("b" * 32, 1)
ZERO, ONE = ("t", 0), ("t", 1)

identities = st.none() | st.sampled_from([OURS, OTHER, Identity("a" * 32, 3)])
offsets = st.dictionaries(st.sampled_from([ZERO, ONE]), st.integers(0, 3))


def pair(identity: Identity | None) -> tuple[str, int] | None:
    return None if identity is None else (identity.id, identity.epoch)


@given(identities, identities, offsets, offsets)
def test_only_the_known_ledger_that_is_not_behind_is_fine_and_only_a_bus_that_knows_none_makes_one(
    here: Identity | None,
    known: Identity | None,
    progress: dict[tuple[str, int], int],
    committed: dict[tuple[str, int], int],
) -> None:
    behind = any(progress.get(slot, -1) < offset for slot, offset in committed.items())
    found = state_of_ledger(here, pair(known), progress, committed)
    if known is None:
        assert isinstance(found, Halt if behind else Create)
    else:
        assert isinstance(found, Fine if here == known and not behind else Halt)
    if isinstance(found, Halt):
        assert "run `trunkline ledger rebuild`" in str(found)
        assert found.told("The usual.") == str(found)


@pytest.mark.parametrize(
    ("here", "progress", "said"),
    [
        (
            None,
            {},
            (
                "the ledger is empty, but this bus has one: aaaaaaaa epoch 2. Set TRUNKLINE_LEDGER__PATH or "
                "TRUNKLINE_LEDGER__URL to where it is; if it is lost, run `trunkline ledger rebuild`."
            ),
        ),
        (
            OTHER,
            {ONE: 9},
            (
                "this ledger, bbbbbbbb epoch 1, is not the one of this bus, aaaaaaaa epoch 2. Set "
                "TRUNKLINE_LEDGER__PATH or TRUNKLINE_LEDGER__URL to where it is; if it is lost, to an empty one, "
                "and run `trunkline ledger rebuild`."
            ),
        ),
        (
            OURS,
            {ZERO: 7},
            (
                "the ledger is older than what was delivered: of t partition 1 it knows nothing, and 5 was committed. "
                "If it is a restored copy, run `trunkline ledger rebuild`."
            ),
        ),
        (
            OURS,
            {},
            (
                "the ledger knows nothing of this sink, and its flow has committed 7 of t partition 0. If the sink had "
                'another name, say so in its class, was = "…"; if the ledger is a restored copy, run '
                "`trunkline ledger rebuild`."
            ),
        ),
    ],
)
def test_a_halt_says_what_is_wrong_and_what_to_do(
    here: Identity | None, progress: dict[tuple[str, int], int], said: str
) -> None:
    assert str(state_of_ledger(here, pair(OURS), progress, {ZERO: 7, ONE: 5})) == said


def test_only_a_worker_notes_the_time_of_a_commit() -> None:
    assert worked({ZERO: (5, ""), ONE: (7, "at=2026-05-01T00:00:00.000+00:00")}) == {ONE: 7}
