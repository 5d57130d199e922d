"""`python -m tests.trunkline.simulator SEED` runs one schedule, `--schedules N` many of them.

`--soak FILE` writes what N schedules gave to a file; SIGTERM ends it early, with what it has done.
"""

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path

from tests.trunkline.simulator.schedules import PAIRS, RARE, Run, impossible, missed, report, rule, run, run_on_cores

SOAK = """\
# Soak

`make soak` runs the delivery engine's decisions through a million schedules of faults and checks every rule after every
step (`tests/trunkline/simulator`). This page is written by it.

| | |
|---|---|
| when | {when} |
| seeds | {first} to {last} |
| schedules | {schedules:,} of {wanted:,} |
| seconds of one core | {seconds:,.0f} |
| rules broken | {broken} |
| pairs of input and stage met | {met} of {possible} that are possible |
"""


def main() -> int:
    """Run what is asked for; 1 when a rule is broken, or when none breaks the rule that is looked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.trunkline.simulator", description=__doc__)
    parser.add_argument("seed", nargs="?", type=int, help="run this one, and show what happened when it breaks a rule")
    parser.add_argument("--schedules", type=int, default=20_000)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument("--until", default="", help="end with the first schedule that breaks this rule")
    parser.add_argument("--soak", type=Path, help="write the result to this file")
    given = parser.parse_args()
    seeds = range(given.first, given.first + given.schedules)
    if given.seed is not None:
        seeds = range(given.seed, given.seed + 1)
    result = run_on_cores(seeds, given.cores) if given.cores > 1 else run(seeds, until=given.until)
    if given.until:
        say(f"{result.schedules} schedules until one breaks {given.until}")
        return given.until not in map(rule, result.broken.values())
    tell(result)
    if given.soak is not None:
        given.soak.write_text(page(result, seeds))
    return bool(result.broken)


def say(line: str) -> None:
    """Write a line out."""
    sys.stdout.write(line + "\n")


def tell(result: Run) -> None:
    """Say what was broken, with the shortest trace of each rule."""
    rules: dict[str, list[int]] = {}
    for seed, why in sorted(result.broken.items()):
        rules.setdefault(rule(why), []).append(seed)
    for seeds in rules.values():
        say(report(seeds[0], result.broken[seeds[0]]) + "\n")
    for name, seeds in rules.items():
        say(f"{name}: {len(seeds)} schedules, seeds {', '.join(map(str, seeds[:10]))}")
    say(f"{result.schedules} schedules, {len(result.broken)} break a rule, {result.seconds:.1f} s of one core")
    if result.schedules >= 1_000:
        unmet = sorted(" with ".join(pair) for pair in missed(result))
        say(f"not met: {'; '.join(unmet) or 'nothing that is possible'}")


def page(result: Run, seeds: range) -> str:
    """Write the result of a soak down."""
    possible = {pair for pair in PAIRS - RARE if not impossible(pair)}
    return SOAK.format(
        when=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        first=f"{seeds[0]:,}",
        last=f"{seeds[0] + result.schedules - 1:,}",
        schedules=result.schedules,
        wanted=len(seeds),
        seconds=result.seconds,
        broken=", ".join(f"seed {seed}: {why}" for seed, why in sorted(result.broken.items())[:20]) or "none",
        met=len(possible & set(result.met)),
        possible=len(possible),
    )


if __name__ == "__main__":
    sys.exit(main())
