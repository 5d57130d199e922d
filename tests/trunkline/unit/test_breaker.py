"""The breaker of a target: every state, every input, and whatever order calls begin and end in."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline import Breaker
from trunkline.engine.breaker import ANY, LONGEST, Circuit, State

DECLARED = Breaker(failures=3, pause=timedelta(seconds=5), probes=2)
CLOSED, OPEN, PROBING = State.CLOSED, State.OPEN, State.PROBING


def circuit_in(state: State) -> Circuit:
    """Give a circuit that has just come into a state, at second 100."""
    circuit = Circuit(DECLARED)
    if state is CLOSED:
        return circuit
    began = 100.0 if state is OPEN else 95.0
    for _ in range(DECLARED.failures):
        circuit.ended(circuit.begin(began), began, failed=True)
    circuit.room(100.0)
    return circuit


@pytest.mark.parametrize(
    ("state", "failed", "after"),
    [
        (CLOSED, [True, True], CLOSED),
        (CLOSED, [True, True, True], OPEN),
        (CLOSED, [True, True, None, True], OPEN),
        (CLOSED, [False] * 6 + [True, True, True], CLOSED),
        (CLOSED, [False] * 6 + [True] * 4, CLOSED),
        (CLOSED, [False] * 6 + [True] * 5, OPEN),
        (CLOSED, [True, False] * 20, CLOSED),
        (CLOSED, [None] * 20, CLOSED),
        (PROBING, [None], PROBING),
        (PROBING, [False], PROBING),
        (PROBING, [False, False], CLOSED),
        (PROBING, [True], OPEN),
        (PROBING, [False, None, False], CLOSED),
        (PROBING, [False, True], OPEN),
    ],
)
def test_what_ends_decides_what_it_becomes(state: State, failed: list[bool | None], after: State) -> None:
    circuit = circuit_in(state)
    assert circuit.state is state
    for now, one in enumerate(failed, start=100):
        circuit.ended(circuit.begin(now), now, failed=one)
    assert circuit.state is after


def test_of_many_calls_in_a_second_all_count() -> None:
    circuit = Circuit(DECLARED)
    for _ in range(1_000):
        circuit.ended(circuit.begin(100.0), 100.0, failed=False)
    for _ in range(500):  # one bad key after the other, within the second
        circuit.ended(circuit.begin(100.5), 100.5, failed=True)
    assert circuit.state is CLOSED
    circuit.ended(circuit.begin(101.2), 101.2, failed=True)
    assert circuit.state is OPEN


@pytest.mark.parametrize(
    ("state", "now", "room", "after"),
    [
        (CLOSED, 100.0, ANY, CLOSED),
        (OPEN, 100.0, 0, OPEN),
        (OPEN, 104.9, 0, OPEN),
        (OPEN, 105.0, 1, PROBING),
        (PROBING, 100.0, 1, PROBING),
        (PROBING, 9_999.0, 1, PROBING),
    ],
)
def test_how_many_calls_may_begin(state: State, now: float, room: int, after: State) -> None:
    circuit = circuit_in(state)
    assert (circuit.room(now), circuit.state) == (room, after)


@pytest.mark.parametrize("began", [CLOSED, OPEN, PROBING])
@pytest.mark.parametrize("failed", [True, False, None])
def test_what_began_in_another_state_says_nothing_new(began: State, *, failed: bool | None) -> None:
    circuit = Circuit(DECLARED)
    late = circuit.begin(0.0)
    if began is not CLOSED:
        circuit = circuit_in(OPEN)
        late = circuit.begin(100.0) if began is OPEN else -1
        circuit.room(105.0)
        if began is PROBING:
            late = circuit.begin(105.0)
            circuit.ended(circuit.begin(105.0), 105.0, failed=False)
            circuit.ended(late, 105.0, failed=True)
    else:
        for _ in range(DECLARED.failures):
            circuit.ended(circuit.begin(0.0), 0.0, failed=True)
    before, until = circuit.state, circuit.until
    circuit.ended(late, 106.0, failed=failed)
    assert (circuit.state, circuit.until) == (before, until)


def test_a_trial_that_succeeds_lets_one_more_begin() -> None:
    circuit = Circuit(Breaker(failures=1, pause=timedelta(seconds=5), probes=4))
    circuit.ended(circuit.begin(0.0), 0.0, failed=True)
    for done in range(4):
        room = circuit.room(5.0)
        assert room == 1 + done
        calls = [circuit.begin(5.0) for _ in range(room)]
        assert circuit.room(5.0) == 0
        circuit.ended(calls[0], 5.0, failed=False)
        for call in calls[1:]:
            circuit.ended(call, 5.0, failed=None)
    assert circuit.state is CLOSED


def test_pauses_double_up_to_a_minute_and_begin_anew() -> None:
    circuit = circuit_in(OPEN)
    now, pauses = 100.0, []
    for _ in range(6):
        pauses.append(circuit.until - now)
        now = circuit.until
        circuit.ended(circuit.begin(now), now, failed=True)
    assert pauses == [5, 10, 20, 40, LONGEST, LONGEST]
    now = circuit.until
    for _ in range(DECLARED.probes):
        circuit.ended(circuit.begin(now), now, failed=False)
    for _ in range(DECLARED.failures):
        circuit.ended(circuit.begin(now), now, failed=True)
    assert circuit.until - now == 5


def test_a_person_ends_the_pause() -> None:
    circuit = circuit_in(OPEN)
    circuit.try_now(101.0)
    assert circuit.room(101.0) == 1
    assert circuit.state is PROBING


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("begin"), st.just(0)),
            st.tuples(st.sampled_from(["failed", "succeeded", "unmade"]), st.integers(0, 20)),
            st.tuples(st.just("wait"), st.integers(0, 70)),
        ),
        max_size=200,
    ),
    st.builds(
        Breaker,
        failures=st.integers(1, 12),
        pause=st.integers(1, 90).map(lambda seconds: timedelta(seconds=seconds)),
        probes=st.integers(1, 6),
    ),
)
def test_whatever_happens_few_calls_are_trials_and_none_is_made_while_it_is_open(
    steps: list[tuple[str, int]], declared: Breaker
) -> None:
    circuit, now = Circuit(declared), 0.0
    flying: list[tuple[int, State]] = []
    for what, number in steps:
        if what == "wait":
            now += number
        elif what == "begin":
            room = circuit.room(now)
            if room > 0:
                flying.append((circuit.begin(now), circuit.state))
            else:
                assert circuit.state is not CLOSED
                assert circuit.begin(now) == -1, "who did not ask is told that it was no call"
        elif flying:
            epoch, _ = flying.pop(number % len(flying))
            circuit.ended(epoch, now, failed={"failed": True, "succeeded": False, "unmade": None}[what])
        trials = [one for one in flying if one[1] is PROBING and one[0] == circuit.epoch]
        assert len(trials) <= declared.probes
        assert circuit.room(now) >= 0
        if circuit.state is OPEN:
            assert now < circuit.until <= now + max(LONGEST, declared.pause.total_seconds())
    # However it went, it comes back: the pause ends, and trials that succeed close it.
    for _ in range(declared.probes + 1):
        if circuit.state is CLOSED:
            break
        for epoch, _ in flying:
            circuit.ended(epoch, now, failed=None)
        flying.clear()
        now = max(now, circuit.until)
        assert circuit.room(now) > 0
        circuit.ended(circuit.begin(now), now, failed=False)
    assert circuit.state is CLOSED
