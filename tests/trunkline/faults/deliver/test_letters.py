"""Events that cannot be delivered, and a dead-letter topic that does not take them."""

import hashlib
from contextlib import closing
from random import Random

import pytest
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient

from tests.trunkline.faults.account import Place
from tests.trunkline.faults.deliver.conftest import EVENTS, MARKS, Case, conclusive
from tests.trunkline.observability.figures import figures
from tests.trunkline.support import Child, header, note, read, stamped, wait_for
from trunkline.errors import Permanent
from trunkline.event import Headers, to_headers
from trunkline.flow.declare import dead_letters_of, group_of
from trunkline.kafka.control import Control
from trunkline.kafka.events import BY_KEY
from trunkline.kafka.topics import LETTER_BYTES, plan

pytestmark = MARKS


@pytest.mark.parametrize("how", ["deleted", "refusing"])
def test_a_dead_letter_topic_out_of_order(case: Case, how: str) -> None:
    case.make()
    case.refuse()
    letters = dead_letters_of(case.flow)
    with case.worker() as child, closing(KafkaAdminClient(bootstrap_servers=case.stage.bootstrap)) as admin:
        case.write(200, refused=0.1)
        case.until_finished(60, child)
        before = case.refused
        if how == "deleted":
            kept = read(case.stage.bootstrap, letters)
            admin.delete_topics([letters])
            with Control(case.stage.cluster) as control:  # until it is gone the broker takes letters, and drops them
                wait_for(lambda: letters not in control.topics([letters]))
        else:
            limit(admin, letters, 50)
        case.write(EVENTS - 200, refused=0.1)
        wait_for(lambda: '"stuck"' in child.log or case.finished(), why=lambda: child.log[-2000:])
        if how == "refusing":
            case.look().check()
        conclusive('"stuck"' in child.log, "every letter was taken")
        held = case.committed
        if how == "deleted":
            with Control(case.stage.cluster) as control:
                control.apply(plan(case.bus, {}, case.stage.kafka))
            case.stage.send(
                (letters, record.key, record.value, tuple(record.headers), record.partition) for record in kept
            )
        else:
            limit(admin, letters, LETTER_BYTES)
        case.until_finished(90, child)
        case.figures["held"] = sum(case.stage.ends(case.bus.topics[0].name).values()) - sum(held.values())
        case.end(child)
    found = case.settle()
    assert found.states == {"done": EVENTS - case.refused, "dead": case.refused}
    conclusive(case.refused > before, "no letter was due")
    assert found.attempts == EVENTS, "invariant repeats: only the letter is written again, the call is not made again"


def test_letters_that_are_held_up_while_the_partitions_are_lost(case: Case) -> None:
    """Called again in a row, without the deliveries between them, they are no more alike than they were."""
    case.make()
    case.refuse()
    letters = dead_letters_of(case.flow)
    with case.worker() as child, closing(KafkaAdminClient(bootstrap_servers=case.stage.bootstrap)) as admin:
        limit(admin, letters, 50)
        case.write(600, keys=80, refused=0.5)
        wait_for(lambda: held_up(child) > 40, seconds=60, why=lambda: child.log[-2000:])
        before = case.target.attempts
        case.stage.freeze(child)
        with Control(case.stage.cluster) as control:
            wait_for(lambda: not control.members(group_of(case.bus, case.flow)), seconds=60)
        case.thaw(child)
        wait_for(lambda: case.target.attempts > before + 40, seconds=60, why=lambda: child.log[-2000:])
        limit(admin, letters, LETTER_BYTES)
        wait_for(lambda: case.finished() or halted(child), seconds=90, why=lambda: child.log[-2000:])
        assert not halted(child), "invariant halted: a refusal that was counted is not counted again"
        case.end(child)
    found = case.settle()
    assert found.states == {"done": 600 - case.refused, "dead": case.refused}


def held_up(child: Child) -> float:
    """Count the events whose letters are not written yet."""
    return figures(child.url).total("flow_deliveries", stage="burying") or 0


def halted(child: Child) -> list[str]:
    """Give what a worker has said about its halts."""
    return [line for line in child.log.splitlines() if '"event": "halted"' in line]


def limit(admin: KafkaAdminClient, topic: str, size: int) -> None:
    """Let a topic take no larger records."""
    wanted = {"max.message.bytes": str(size)}
    admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, wanted)])


def spoil(random: Random, value: bytes, headers: Headers) -> tuple[bytes | None, Headers]:
    """Make something of an event that is none."""
    match random.randrange(8):
        case 0:
            return b"\x01" + value[1:], headers
        case 1:
            return value[: random.randrange(1, len(value))], headers
        case 2:
            return value + random.randbytes(70), headers
        case 3:
            return value[:1] + (10**6).to_bytes(4, "big") + value[5:], headers
        case 4:
            return None, headers
        case 5:
            return random.randbytes(random.randrange(200)), headers
        case 6:
            missing = random.choice(("ce_id", "ce_time", "ce_source"))
            return value, tuple(pair for pair in headers if pair[0] != missing)
        case _:
            return value, tuple((name, b"\xff\xfe" if name == "ce_source" else found) for name, found in headers)


def test_poison_among_events(case: Case) -> None:
    bus = case.make()
    topic = bus.topics[0].name
    form = case.stage.encoder(bus, topic)
    records = []
    numbers: dict[str, int] = {}
    for _ in range(EVENTS):
        box = f"k{case.random.randrange(50)}"
        number = numbers[box] = numbers.get(box, -1) + 1
        event = stamped(bus, note(number, box))
        value, headers = form.encode(event.data), to_headers(event)
        poison = case.random.random() < 0.15
        records.append(
            (
                poison,
                (topic, box.encode(), *(spoil(case.random, value, headers) if poison else (value, headers)), BY_KEY),
            )
        )
    places = case.stage.send(record for _, record in records)
    case.poison = {Place(*place) for place, (poison, _) in zip(places, records, strict=True) if poison}
    case.run_out()
    found = case.settle()
    spoilt = case.figures["poison"] = len(case.poison)
    conclusive(spoilt >= EVENTS // 10, "hardly a record was spoilt")
    assert found.states == {"done": EVENTS - spoilt, "dead": spoilt}
    source = {(record.partition, record.offset): record for record in read(case.stage.bootstrap, topic)}
    for letter in case.stage.letters(case.flow):
        origin = source[letter.partition, int(header(letter, "trunkline-origin-offset"))]
        assert (letter.key, letter.value) == (origin.key, origin.value), "invariant bytes"
        assert tuple(letter.headers)[: len(origin.headers)] == tuple(origin.headers), "invariant bytes"


def test_events_of_the_largest_size_that_fail(case: Case) -> None:
    bus = case.make()
    topic = bus.topics[0].name
    case.strike(status=422, match="/big/*", detail="x" * 10_000)
    low, high = 1_000_000, 1_200_000
    fits = 0
    while high - low > 1:
        middle = (low + high) // 2
        try:
            case.stage.write(bus, [note(fits, "big", "x" * middle)])
        except Permanent:
            high = middle
        else:
            low, fits = middle, fits + 1
    case.figures["largest text"] = low
    with pytest.raises(Permanent):
        case.stage.write(bus, [note(fits, "big", "x" * (low + 1))])
    case.write(200)
    case.run_out()
    found = case.settle()
    assert found.states == {"done": 200, "dead": fits}
    source = {(record.partition, record.offset): record for record in read(case.stage.bootstrap, topic)}
    whole = 0
    for letter in case.stage.letters(case.flow):
        origin = source[letter.partition, int(header(letter, "trunkline-origin-offset"))]
        if letter.value is None:
            assert header(letter, "trunkline-reference-sha256") == hashlib.sha256(origin.value).hexdigest()
        else:
            assert letter.value == origin.value, "invariant bytes"
            whole += 1
    case.figures["whole letters"] = whole
