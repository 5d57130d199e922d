import io

import pytest
from rich.console import Console

from tests.trunkline.unit.schemas import ParcelV1
from tests.trunkline.unit.test_walk import Anybody, Carrier, Web
from trunkline import Bus, Deliver, Publish, Target, Topic, env
from trunkline.flow.draw import data, tree

PARCELS = Topic("parcels", ParcelV1, key="customer")


@pytest.mark.parametrize(
    ("after_dead", "told"),
    [
        ("continue", "carrier  → carrier at $CARRIER_URL, gives up after 15 min"),
        ("park_key", "carrier  → carrier at $CARRIER_URL, gives up after 15 min and parks the key"),
        ("block", "carrier  → carrier at $CARRIER_URL, gives up after 15 min and blocks the key"),
    ],
)
def test_what_happens_after_a_dead_letter_is_drawn(after_dead: str, told: str) -> None:
    sink = Carrier(Target("carrier", env("CARRIER_URL")))
    deliver = Deliver(PARCELS, to=sink, after_dead=after_dead)  # type: ignore[arg-type]  # one of the three
    bus = Bus("bus", [Publish(Web(Anybody()), to=PARCELS), deliver])
    screen = Console(file=io.StringIO(), width=200)
    screen.print(tree(bus))
    assert isinstance(screen.file, io.StringIO)
    assert screen.file.getvalue().splitlines()[-1].strip("│└─ ") == told
    assert data(bus)["flows"][1]["after_dead"] == after_dead
