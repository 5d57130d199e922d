"""Schedules of two replays at once and a crash, step by step: too seldom for chance to find them in a million."""

from collections.abc import Iterator, Sequence
from itertools import count

import pytest

from tests.trunkline.simulator.simulation import Simulation
from tests.trunkline.simulator.worker import PATIENCE, SESSION, Worker
from tests.trunkline.simulator.world import NO_ANSWER, Given
from trunkline.ledger.deliveries import State
from trunkline.verdict import Verdict


class Script:
    """One event at a target without keys, in a world in which nothing happens but what is said here."""

    def __init__(self) -> None:
        self.simulation = next(one for one in map(Simulation, count()) if is_plain(one))
        world = self.simulation.world
        world.ledger_trouble = 0.0
        self.agenda = world.agenda
        self.agenda.chance = lambda: 0.5
        world.broker.refuses_letters = False
        self.answers: Iterator[Verdict | None] = iter(())
        self.handled = 0
        world.target.handle = self.handle  # type: ignore[method-assign]  # the world's only chance of its own

    def handle(self, given: Sequence[Given]) -> Sequence[Verdict]:
        """Apply what is asked and answer as the script says; None: the caller dies while the target works."""
        world = self.simulation.world
        self.handled += 1
        verdict = next(self.answers)
        [(happening, run, late)] = given
        if verdict is None or verdict is NO_ANSWER or verdict is world.target.answers[200]:
            world.target._apply((happening, run, late))
        if verdict is None:
            self.simulation.crash()
            return [NO_ANSWER]
        return [verdict]

    @property
    def worker(self) -> Worker:
        """The worker that lives."""
        [found] = [one for one in self.simulation.workers if not one.dead]
        return found

    def go(self, *answers: Verdict | None, seconds: float = 0.0) -> None:
        """Fetch what there is, and let everything happen that is due, and what comes of it."""
        self.answers = iter(answers)
        self.simulation.move_to(self.agenda.now + seconds)
        for _ in range(4):  # partitions, a lease, what both allow, and what comes of that
            self.simulation.balance()
            self.simulation.move_to(self.agenda.now)
            while self.agenda.pending:
                self.agenda.happen(0)
            self.worker.fetch(all_of_it=True)
        assert next(self.answers, "none") == "none", "not all was called"

    def takes_over(self, *answers: Verdict | None, seconds: float = 1.1 * SESSION) -> None:
        """Let the coordinator notice that the worker has ended, and another one read everything again."""
        self.go(*answers, seconds=seconds)

    def stands(self, state: State) -> bool:
        """Say whether the ledger holds this of the event."""
        return self.simulation.world.ledger.rows[0].state is state


def is_plain(one: Simulation) -> bool:
    """Say whether a schedule begins as these do."""
    policy, happenings = one.policy, one.world.happenings
    return (
        not (policy.keyed or policy.latest)
        and (policy.after_dead, policy.together, one.partitions) == ("continue", 1, 1)
        and len(one.workers) == len(happenings) == 1
        and not (happenings[0].poison or happenings[0].stubborn)
    )


ENDS = {"is told to wait": (429, 1, State.DONE), "is refused": (422, 0, State.DEAD), "dies": (None, 0, State.AMBIGUOUS)}
"""What becomes of the second replay's call, how often it is called once more, and how the event ends."""


@pytest.mark.parametrize("end", ENDS)
def test_a_replay_that_died_in_its_call_does_not_call_again_whatever_the_other_does(end: str) -> None:
    """Nobody knows whether the first one's call had its effect, and a person has begun one replay (D4, R2)."""
    script = Script()
    status, more, last = ENDS[end]
    answers = script.simulation.world.target.answers
    script.go(NO_ANSWER)
    script.worker.commit()
    script.go()
    script.worker.commit()
    assert script.stands(State.AMBIGUOUS)
    for _ in range(2):
        script.simulation.send_again({0})
    script.go(None)
    assert script.stands(State.INTENT)
    script.takes_over()
    script.go(None if status is None else answers[status], seconds=PATIENCE)
    if status is not None:
        script.simulation.crash()
    script.takes_over(*[answers[200]] * more)
    script.go(seconds=PATIENCE)
    assert script.handled == 3 + more, "the oracle would say who called"
    assert script.stands(last)
    script.simulation.world.calm = True
    script.simulation.settle()
