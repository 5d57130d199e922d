"""What a case writes for its one sink, and what must have come of it."""

from tests.trunkline.support import Stage, note, wait_for
from trunkline import Bus
from trunkline.errors import Unavailable


class Load:
    """The events of one case; `bus` and its one `flow` are set by whoever makes them."""

    bus: Bus
    flow: str

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.events = 0

    def write(self, rounds: int = 10, keys: int = 50) -> None:
        boxes = [f"k{self.events}-{key}" for key in range(keys)]
        self.stage.write(self.bus, [note(number, box) for number in range(rounds) for box in boxes])
        self.events += rounds * keys

    def finished(self) -> bool:
        try:
            return self.stage.committed(self.bus, self.flow) == self.stage.ends(self.bus.topics[0].name)
        except Unavailable:
            return False

    def until_finished(self) -> None:
        wait_for(self.finished, seconds=60, why=self.why)

    def why(self) -> object:
        """Give what may tell why it is not finished."""
        return self.stage.rows()

    def settle(self) -> None:
        """Fail unless every event had its one effect and none became a dead letter."""
        effects = self.stage.effects()
        assert len(effects) == self.events
        assert set(effects.values()) == {1}
        assert self.stage.letters(self.flow) == []
