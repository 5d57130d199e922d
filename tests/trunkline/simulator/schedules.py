"""Many schedules: which of them break a rule, how short such a one can be made, and what they have met."""

import signal
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import chain

from tests.trunkline.simulator.oracle import Broken
from tests.trunkline.simulator.simulation import Simulation
from trunkline.engine.delivery import Stage
from trunkline.ledger.deliveries import State

Pair = tuple[str, str]

SHOWN = 60
"""Steps of a trace that are shown."""
CHUNK = 1_000


@dataclass(slots=True)
class Run:
    """What a range of seeds has given."""

    schedules: int = 0
    seconds: float = 0.0
    """Of one core."""
    broken: dict[int, str] = field(default_factory=dict)
    met: Counter[Pair] = field(default_factory=Counter)

    def add(self, other: "Run") -> None:
        """Add another range."""
        self.schedules += other.schedules
        self.seconds += other.seconds
        self.broken |= other.broken
        self.met.update(other.met)


def run(seeds: Iterable[int], *, until: str = "") -> Run:
    """Run schedules; none after the first that breaks the rule `until`."""
    result, began = Run(), time.process_time()
    for seed in seeds:
        simulation = Simulation(seed)
        why = broken(simulation)
        result.schedules += 1
        result.met.update(simulation.world.seen)
        if why is not None:
            result.broken[seed] = why
            if until and rule(why) == until:
                break
    result.seconds = time.process_time() - began
    return result


def run_on_cores(seeds: range, cores: int) -> Run:
    """Run schedules on several cores; SIGTERM ends it with those that have run, which are the first ones."""
    result = Run()
    chunks = [seeds[at : at + CHUNK] for at in range(0, len(seeds), CHUNK)]
    with ProcessPoolExecutor(cores, initializer=signal.signal, initargs=(signal.SIGTERM, signal.SIG_DFL)) as pool:
        before = signal.signal(signal.SIGTERM, stop)
        try:
            for done in pool.map(run, chunks):
                result.add(done)
        except Stopped:
            pool.shutdown(cancel_futures=True)
        finally:
            signal.signal(signal.SIGTERM, before)
    return result


class Stopped(BaseException):
    """Somebody wants what has run so far."""


def stop(*_: object) -> None:
    """End the run that waits."""
    raise Stopped


def broken(simulation: Simulation) -> str | None:
    """Run a schedule and give the rule that it breaks, or the exception that it raises, with what happened."""
    try:
        simulation.run()
    except Broken as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - a defect may raise anything
        return f"{type(error).__name__}: {error}"
    return None


def rule(why: str) -> str:
    """Give the name of the rule that was broken."""
    return why.partition(":")[0]


def shrink(seed: int) -> Simulation | None:
    """Find a shorter schedule of a seed that breaks the same rule, and run it with a trace; None when none is broken.

    First fewer steps before everything heals, then fewer of its faults.
    """
    why = broken(Simulation(seed))
    if why is None:
        return None
    longest = Simulation(seed).length
    steps = next(n for n in chain(range(5, longest, 5), (longest,)) if breaks(seed, why, n, None))
    faults = next((n for n in range(40) if breaks(seed, why, steps, n)), None)
    simulation = Simulation(seed, trace=True, steps=steps, faults=faults)
    broken(simulation)
    return simulation


def breaks(seed: int, why: str, steps: int, faults: int | None) -> bool:
    """Say whether a schedule that is cut short breaks the same rule."""
    again = broken(Simulation(seed, steps=steps, faults=faults))
    return again is not None and rule(again) == rule(why)


def report(seed: int, why: str) -> str:
    """Tell a person about a schedule that breaks a rule: its last steps, the rule, and the command to run it alone."""
    simulation = shrink(seed)
    told = [] if simulation is None else (simulation.agenda.told or [])[-SHOWN:]
    policy = "" if simulation is None else str(simulation.policy)
    return "\n".join([*told, policy, f"seed {seed}: {why}", f"again: python -m tests.trunkline.simulator {seed}"])


# What there is to meet.

OPEN = [stage.value for stage in Stage if stage is not Stage.GONE]
BUSY = ["preparing", "calling", "burying", "recording"]
STATES = ["nothing", *(state.name for state in State)]
OWNED = ["ours", "leaving", "gone"]
VERDICTS = ["Delivered", "Superseded", "Retryable", "Permanent", "Unknown", "Halt"]
STANDINGS = ["Go", "Finished", "Wait", "Ambiguous", "Superseded", "Parked"]

PAIRS: frozenset[Pair] = frozenset(
    [
        *((about, stage) for about in ("assign", "leave", "forget", "skip", "pause", "halt", "bars") for stage in OPEN),
        *((f"arrive {kind}", state) for kind in ("main", "live", "stale") for state in STATES),
        *((f"answered {verdict}", owned) for verdict in VERDICTS for owned in OWNED),
        *((f"prepared {standing}", stage.value) for standing in STANDINGS for stage in Stage),
        *((f"recorded {state.name}", stage.value) for state in State for stage in Stage),
        *((f"against {state.name}", stage.value) for state in State for stage in Stage),
        *(
            (about, stage.value)
            for about in ("begin", "answered", "refused", "due", "buried", "unburied")
            for stage in Stage
        ),
    ]
)
"""Every input of the dispatcher with every stage it could meet, every verdict and every state of the ledger."""

RARE: frozenset[Pair] = frozenset(
    [
        *(("answered Superseded", "leaving"), ("answered Superseded", "gone"), ("answered Halt", "gone")),
        ("against SUPERSEDED", "recording"),
    ]
)
"""So rare that nobody asks for it: all those answers are dropped alike, and the others of `gone` are met; what stands
against an outcome is final, and others that are final are met."""


def missed(result: Run) -> set[Pair]:
    """Give the pairs that could have been met and were not."""
    return {pair for pair in PAIRS - RARE - set(result.met) if not impossible(pair)}


def impossible(pair: Pair) -> str:
    """Say why a pair cannot be met; empty when it can."""
    about, met = pair
    kind, _, what = about.partition(" ")
    match kind:
        case "prepared" if met != "preparing":
            return "the ledger is asked of deliveries that are PREPARING, which are busy and so are never given up"
        case "answered" | "refused" if not what and met != "calling":
            return "a call is made of deliveries that are CALLING, which are busy and so are never given up"
        case "recorded" if met != "recording" or what in ("INTENT", "DISCARDED"):
            return "what is recorded is RECORDING, which is busy; an INTENT is announced, and a person discards"
        case "against" if met != "recording" or what in ("DEAD", "PARKED"):
            return "what is recorded is RECORDING; a letter gives way to all but whose call was given up for AMBIGUOUS"
        case "buried" | "unburied" if met != "burying":
            return "a letter is written of deliveries that are BURYING, which are busy and so are never given up"
        case "begin" if met not in ("started", "gone"):
            return "only what is STARTED is begun, unless it was given up meanwhile"
        case "due" if met in ("started", "preparing", "calling", "queued"):
            return "a wait is ended once, by time or by the order to skip"
        case "arrive" if what != "main" and met == "nothing":
            return "only what has an outcome is replayed, and no outcome goes"
        case _:
            return ""
