"""What may be committed: the lowest offset that is not finished, or what follows the last one."""

from collections import deque
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from trunkline.engine.watermark import Watermark


def watermark(*begun: int) -> Watermark:
    made = Watermark()
    for offset in begun:
        made.begin(offset)
    return made


def test_before_the_first_record_there_is_nothing_to_commit() -> None:
    assert watermark().position is None


def test_nothing_at_or_above_an_unfinished_offset_is_committed() -> None:
    made = watermark(3, 4, 5)
    made.finish(4)
    made.finish(5)
    assert made.position == 3
    made.finish(3)
    assert made.position == 6, "the offset after the last finished one, as Kafka has it"


def test_gaps_are_passed() -> None:
    made = watermark(3, 9)
    made.finish(3)
    assert made.position == 9


def test_the_span_counts_from_the_watermark_on_finished_or_not() -> None:
    made = watermark(1, 2, 3)
    made.finish(2)
    assert made.unfinished == 3
    made.finish(1)
    assert made.unfinished == 1


class Machine(RuleBasedStateMachine):
    """The same, against the rule itself."""

    def __init__(self) -> None:
        super().__init__()
        self.watermark = Watermark()
        self.last: int | None = None
        self.unfinished: list[int] = []
        self.begun: list[int] = []
        self.before: int | None = None

    @rule(gap=st.integers(1, 4))
    def begin(self, gap: int) -> None:
        self.last = gap if self.last is None else self.last + gap
        self.unfinished.append(self.last)
        self.begun.append(self.last)
        self.watermark.begin(self.last)

    @precondition(lambda self: self.unfinished)
    @rule(data=st.data())
    def finish(self, data: Any) -> None:
        offset = data.draw(st.sampled_from(self.unfinished))
        self.unfinished.remove(offset)
        self.watermark.finish(offset)

    @invariant()
    def nothing_unfinished_is_passed(self) -> None:
        position = self.watermark.position
        if self.last is None:
            assert position is None
        else:
            assert position == min(self.unfinished, default=self.last + 1)

    @invariant()
    def it_never_goes_back(self) -> None:
        position = self.watermark.position
        assert self.before is None or (position is not None and position >= self.before)
        self.before = position

    @invariant()
    def its_span_is_counted(self) -> None:
        lowest = min(self.unfinished, default=None)
        span = [offset for offset in self.begun if lowest is not None and offset >= lowest]
        assert self.watermark.unfinished == len(span)


TestWatermark = Machine.TestCase
TestWatermark.settings = settings(max_examples=60, stateful_step_count=40, deadline=None, derandomize=True)


def test_what_begins_while_another_thread_reads_is_not_passed() -> None:
    class Interrupted(Watermark):
        """Lets the next offset begin whenever the one to begin last was just read."""

        _interrupting = False

        def __getattribute__(self, name: str) -> Any:
            value = super().__getattribute__(name)
            if name in ("_begun", "_next") and self._interrupting:
                self._interrupting = False
                seen = deque(value) if name == "_begun" else value
                self.begin(2)
                return seen
            return value

    made = Interrupted()
    made.begin(1)
    made.finish(1)
    made._interrupting = True
    assert made.position == 2
