from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from trunkline.engine.lanes import Lanes

Rule = TypeVar("Rule", bound=Callable[..., None])

WIDTH = 3
SLOTS = 2


@dataclass(eq=False)
class Item:
    key: str
    slot: int
    number: int
    state: Literal["queued", "started", "busy", "settling", "waiting"] = "queued"


@dataclass
class Model:
    """What the rules say, with lists and no cleverness."""

    lanes: dict[str, list[Item]] = field(default_factory=dict)
    left: list[Item] = field(default_factory=list)
    """Started and discarded before their call began: their width is not free yet."""

    def items(self) -> Iterator[Item]:
        for lane in self.lanes.values():
            yield from lane

    def having(self, *states: str) -> list[Item]:
        return [item for item in self.items() if item.state in states]

    def remove(self, item: Item) -> None:
        self.lanes[item.key].remove(item)
        if not self.lanes[item.key]:
            del self.lanes[item.key]


def some(*states: str) -> Callable[[Rule], Rule]:
    """Let a rule run only while an item is in one of these states."""
    return precondition(lambda self: self.model.having(*states))


class Machine(RuleBasedStateMachine):
    """The lanes as the deliverer drives them: started → busy → settling → finished, or waiting → again."""

    def __init__(self) -> None:
        super().__init__()
        self.lanes: Lanes[Item] = Lanes(WIDTH)
        self.model = Model()
        self.count = 0
        self.last: dict[str, int] = {}

    def pick(self, data: Any, *states: str) -> Item:
        item: Item = data.draw(st.sampled_from(self.model.having(*states)))
        return item

    @rule(key=st.sampled_from("abcdef"), slot=st.integers(0, SLOTS - 1))
    def add(self, key: str, slot: int) -> None:
        self.count += 1
        item = Item(key, slot, self.count)
        self.model.lanes.setdefault(key, []).append(item)
        self.lanes.add(key, item)

    @rule()
    def start(self) -> None:
        for item in self.lanes.start():
            assert item is self.model.lanes[item.key][0], "only the oldest of a key may be called"
            assert item.state == "queued"
            assert item.number >= self.last.get(item.key, 0), "a key never goes back"
            self.last[item.key] = item.number
            item.state = "started"
        idle = [lane[0] for lane in self.model.lanes.values() if lane[0].state == "queued"]
        assert not idle or self.lanes.calling == WIDTH, "who may be called is called while there is width"

    @some("started")
    @rule(data=st.data())
    def begin(self, data: Any) -> None:
        self.pick(data, "started").state = "busy"

    @some("started")
    @rule(data=st.data())
    def stand_still(self, data: Any) -> None:
        item = self.pick(data, "started")
        item.state = "queued"
        self.lanes.answered()
        self.lanes.again(item.key)

    @some("busy")
    @rule(data=st.data(), ends=st.booleans())
    def answer(self, data: Any, ends: bool) -> None:  # noqa: FBT001
        item = self.pick(data, "busy")
        item.state = "settling" if ends else "waiting"
        self.lanes.answered()

    @some("settling")
    @rule(data=st.data())
    def finish(self, data: Any) -> None:
        item = self.pick(data, "settling")
        self.model.remove(item)
        self.lanes.finish(item.key)

    @some("waiting")
    @rule(data=st.data())
    def try_again(self, data: Any) -> None:
        item = self.pick(data, "waiting")
        item.state = "queued"
        self.lanes.again(item.key)

    @precondition(lambda self: self.model.left)
    @rule()
    def leave(self) -> None:
        self.model.left.pop()
        self.lanes.answered()

    @rule(slot=st.integers(0, SLOTS - 1))
    def revoke(self, slot: int) -> None:
        self.lanes.discard(lambda item: item.slot == slot, lambda item: item.state in ("busy", "settling"))
        for item in list(self.model.items()):
            if item.slot == slot and item.state not in ("busy", "settling"):
                self.model.remove(item)
                if item.state == "started":
                    self.model.left.append(item)

    @invariant()
    def counts_agree(self) -> None:
        calling = len(self.model.having("started", "busy")) + len(self.model.left)
        assert self.lanes.calling == calling <= WIDTH
        assert self.lanes.held == len(list(self.model.items()))
        assert len(self.lanes) == len(self.model.lanes)

    @invariant()
    def one_of_a_key(self) -> None:
        for lane in self.model.lanes.values():
            assert all(item.state == "queued" for item in lane[1:])

    def teardown(self) -> None:
        """Whatever happened, everything that was not discarded can still be finished, in order."""
        for item in self.model.left:
            assert item.state == "started"
            self.lanes.answered()
        self.model.left.clear()
        for item in self.model.having("started", "busy", "waiting", "settling"):
            if item.state in ("started", "busy"):
                self.lanes.answered()
            if item.state != "settling":
                self.lanes.again(item.key)
                item.state = "queued"
            else:
                self.model.remove(item)
                self.lanes.finish(item.key)
        while self.model.lanes:
            started = list(self.lanes.start())
            assert started, "something is left that is never called"
            for item in started:
                assert item is self.model.lanes[item.key][0]
                self.lanes.answered()
                self.model.remove(item)
                self.lanes.finish(item.key)
        assert (self.lanes.calling, self.lanes.held, len(self.lanes)) == (0, 0, 0)


TestLanes = Machine.TestCase
TestLanes.settings = settings(max_examples=100, stateful_step_count=50, deadline=None, derandomize=True)
