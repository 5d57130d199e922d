"""One schedule: several workers around the real dispatcher, a world that goes wrong, people who intervene."""

from collections import deque
from heapq import heappop
from typing import Literal

from tests.trunkline.simulator.agenda import Agenda
from tests.trunkline.simulator.oracle import LETTERS, Broken, Oracle
from tests.trunkline.simulator.worker import EVENTS, LEASE, PLACES, SESSION, Flight, Worker, World, named, slot_name
from tests.trunkline.simulator.world import MAIN, REPLAY, Broker, Happening, Ledger, Target
from trunkline.engine.delivery import Stage
from trunkline.engine.dispatch import Caps, Policy
from trunkline.kafka.events import Slot
from trunkline.ledger.deliveries import State
from trunkline.verdict import Retry

AFTER_DEAD: tuple[Literal["continue", "park_key", "block"], ...] = ("continue", "park_key", "park_key", "block")
LARGE = Caps(lane_events=8, lane_bytes=1_000, slot_events=20, bytes=1_000, span=40)
LONGEST = 40
"""Records in a replay topic, after which nothing that was parked again is sent again."""
CALM = 3_000.0
"""Virtual seconds in which everything must have settled once nothing goes wrong any more."""


class Simulation:
    """A schedule; everything that chance decides in it comes from its seed.

    `steps` and `faults` cut it short: so many steps before everything heals, and only the first so many faults.
    """

    def __init__(self, seed: int, *, trace: bool = False, steps: int | None = None, faults: int | None = None) -> None:
        self.agenda = agenda = Agenda(seed, trace=trace)
        chance, below = agenda.chance, agenda.below
        keyed, latest = chance() < 0.5, chance() < 0.4
        flood = chance() < 0.07
        tight = Caps(
            lane_events=2 + below(3),
            lane_bytes=40,
            slot_events=3 + below(5),
            bytes=60,
            span=6 + below(8),
        )
        self.policy = policy = Policy(
            retry=Retry(),
            keyed=keyed,
            latest=latest,
            after_dead=AFTER_DEAD[below(4)],
            replay=REPLAY,
            sink="simulated",
            width=1 + below(4),
            together=2 + below(3) if chance() < 0.4 else 1,
            caps=tight if flood or chance() < 0.4 else LARGE,
        )
        partitions = 1 + below(3)
        self.slots = [Slot(topic, number) for topic in (MAIN, REPLAY) for number in range(partitions)]
        self.partitions = partitions
        self.oracle = Oracle(
            keyed=keyed, latest=latest, after_dead=policy.after_dead, width=policy.width, together=policy.together
        )
        self.world = World(
            agenda=agenda,
            policy=policy,
            oracle=self.oracle,
            broker=Broker({slot: [] for slot in self.slots}),
            ledger=Ledger(self.oracle, keyed=keyed, latest=latest),
            target=Target(self.oracle, chance, keyed=keyed, latest=latest, trouble=(0.05, 0.3, 0.5)[below(3)]),
            batch=1 + below(4),
            ledger_trouble=(0.0, 0.0, 0.3, 0.8)[below(4)],
            orders=self.order,
            parked=self.follow,
            stopped=self.end_process,
            joined=self.rebalance,
            announced=self.skip_announced,
        )
        self.keys = 1 + below(4)
        self.unkeyed = (0.0, 0.3)[below(2)]
        self.copies = (0.05, 0.35)[below(2)]
        self.changes = 0.1 if chance() < 0.04 else 0.0
        """How often a copy comes with another content."""
        self.to_come = 40 if flood else 4 + below(10)
        self.following: dict[str, set[int]] = {}
        """Runs of parked keys: what is parked while they run belongs to them."""
        faults_ = [
            *(self.rebalance, self.rebalance, self.freeze, self.cut_off, self.crash, self.stop),
            *(self.pause, self.skip, self.replay, self.replay, self.replay, self.end_run, self.go_on),
            *(self.refuse_letters, self.break_ledger, self.break_target, self.heal, self.replay_twice, self.discard),
        ]
        self.possible = [one for one in faults_ if chance() < 0.6] or [self.replay]
        self.often = (0.02, 0.06, 0.12)[below(3)]
        self.length = 40 + below(100)
        self.length = self.length if steps is None else min(steps, self.length)
        self.faults = 1_000 if faults is None else faults
        self.background = (self.tick, self.tick, self.fetch, self.fetch, self.commit, self.balance, self.produce)
        self.workers: list[Worker] = []
        self.hired = 0
        for _ in range(1 + below(3)):
            self.hire()
        for _ in range(30 if flood else 1 + below(6)):
            self.produce()

    def run(self) -> None:
        """Let things happen and go wrong; then let everything heal, and see that it settles.

        Raises:
            Broken: a rule does not hold.
        """
        self.balance()
        for _ in range(self.length):
            self.step()
        self.heal_all()
        self.settle()

    def step(self) -> None:
        """Let one thing happen."""
        agenda = self.agenda
        chance, pending = agenda.chance, agenda.pending
        if chance() < self.often:
            fault = self.possible[int(chance() * len(self.possible))]
            if self.faults > 0:
                self.faults -= 1
                fault()
            return
        at = int(chance() * (len(pending) + 2))
        if at < len(pending):
            agenda.happen(at)
        else:
            self.background[int(chance() * len(self.background))]()

    # Time, and what happens by itself.

    def tick(self) -> None:
        """Let time pass: a little, or until something is due."""
        agenda = self.agenda
        if agenda.timers and agenda.chance() < (0.15 if agenda.pending else 0.7):
            self.move_to(agenda.timers[0][0])
        else:
            self.move_to(agenda.now + agenda.chance() * (0.3 if agenda.pending else 2.0))

    def move_to(self, when: float) -> None:
        """Let time pass; members renew their leases meanwhile, and those that are not heard of are given up."""
        agenda = self.agenda
        when = max(agenda.now, when)
        agenda.move_to(when)
        self.oracle.now = when
        for worker in self.workers:
            if worker.frozen or worker.cut:
                if when - worker.heard > SESSION:
                    self.expel(worker)
            elif worker.member:
                worker.heard = when
                if worker.slots and (self.world.calm or agenda.chance() < 0.9):
                    lapsed = worker.core.lease < when
                    worker.core.renew(when + LEASE)
                    self.oracle.leased(worker.number, when + LEASE)
                    if lapsed:
                        worker.act()

    def fetch(self) -> None:
        """Let a worker fetch."""
        self.someone().fetch()

    def commit(self) -> None:
        """Let a worker commit."""
        self.someone().commit()

    def produce(self) -> None:
        """Let an event come, or a copy of an earlier one."""
        agenda, happenings = self.agenda, self.world.happenings
        if not self.to_come:
            return
        self.to_come -= 1
        if happenings and agenda.chance() < self.copies:
            happening = happenings[agenda.below(len(happenings))]
            if happening.poison or happening.claims >= 0:
                return
            if happening.key is not None and agenda.chance() < self.changes:
                happening = Happening(
                    len(happenings), happening.key, happening.partition, 5, poison=False, stubborn=False,
                    claims=happening.number,
                )  # fmt: skip
                happenings.append(happening)
        else:
            key = None if agenda.chance() < self.unkeyed else agenda.below(self.keys)
            poison = agenda.chance() < 0.05
            partition = agenda.below(self.partitions) if key is None else key % self.partitions
            happening = Happening(
                len(happenings), key, partition, 1 + agenda.below(9), poison, stubborn=agenda.chance() < 0.15
            )
            happenings.append(happening)
        elsewhere = happening.key is None and not happening.poison and agenda.chance() < 0.5
        partition = agenda.below(self.partitions) if elsewhere and happening.offset >= 0 else happening.partition
        self.append(Slot(MAIN, partition), happening, "")

    def append(self, slot: Slot, happening: Happening, run: str) -> None:
        """Write a record."""
        broker, agenda = self.world.broker, self.agenda
        gap = 0 if agenda.chance() < 0.8 else 1 + agenda.below(3)
        offset = broker.append(slot, happening, run, gap=gap)
        self.oracle.appended(slot, offset, happening.number, happening.key, run, changed=happening.claims >= 0)
        if agenda.told is not None:
            what = "poison" if happening.poison else f"as e{happening.claims}" if happening.claims >= 0 else run
            agenda.say(f"broker has {named(broker.logs[slot][-1])}, key {happening.key} {what}")

    # Workers and their group.

    def someone(self) -> Worker:
        """Choose a worker."""
        return self.workers[self.agenda.below(len(self.workers))]

    def victim(self) -> Worker:
        """Choose a worker that has something to lose."""
        workers = [one for one in self.workers if one.slots] or self.workers
        return workers[self.agenda.below(len(workers))]

    def hire(self) -> None:
        """Start a worker."""
        self.hired += 1
        self.workers = [one for one in self.workers if not one.dead]
        self.workers.append(Worker(self.world, self.hired))

    def balance(self) -> None:
        """Give the partitions that nobody has to somebody."""
        if len(self.oracle.owner) == len(self.slots):
            return
        ready = [
            one
            for one in self.workers
            if one.ready and one.in_session and one.member and not one.cut and not one.core.stopping
        ]
        for number in range(self.partitions):
            slots = [Slot(MAIN, number), Slot(REPLAY, number)]
            if ready and slots[0] not in self.oracle.owner:
                worker = ready[self.agenda.below(len(ready))]
                if worker.ready and slots[0] not in worker.slots:
                    for slot in slots:
                        self.oracle.owned(worker.number, slot)
                    worker.assign(slots)

    def rebalance(self) -> None:
        """Ask a worker for a partition back."""
        number = self.agenda.below(self.partitions)
        slots = [Slot(MAIN, number), Slot(REPLAY, number)]
        for worker in self.workers:
            if slots[0] in worker.slots and worker.ready and worker.in_session and worker.member and not worker.cut:
                self.agenda.say(f"coordinator asks w{worker.number} for {slot_name(slots[0])}")

                def given_back(open_still: int, worker: Worker = worker) -> None:
                    for slot in slots:
                        if self.oracle.owner.get(slot) == worker.number:
                            self.oracle.left(worker.number, slot, clean=not open_still)

                worker.revoke(slots, given_back)
                return

    def expel(self, worker: Worker) -> None:
        """Let the coordinator give up a member that was not heard of for a session."""
        if worker.member:
            worker.member = False
            self.agenda.say(f"coordinator gives w{worker.number} up")
            self.disown(worker)

    def disown(self, worker: Worker) -> None:
        """Let nobody have what was a worker's."""
        for slot in self.slots:
            if self.oracle.owner.get(slot) == worker.number:
                self.oracle.left(worker.number, slot, clean=False)

    def freeze(self) -> None:
        """Freeze a process for some time."""
        worker = self.victim()
        if not worker.frozen:
            self.agenda.say(f"w{worker.number} is frozen")
            worker.frozen = True
            self.agenda.later(self.agenda.chance() * 2 * SESSION, self.thaw, None, worker)
            self.linger()

    def thaw(self, worker: Worker) -> None:
        """Let a frozen process go on."""
        if worker.frozen and not worker.dead:
            self.agenda.say(f"w{worker.number} is thawed")
            worker.frozen = False
            self.agenda.pending += worker.stash
            worker.stash = []
            self.agenda.soon(worker.wake, worker)

    def cut_off(self) -> None:
        """Let the coordinator not hear of a worker for some time."""
        worker = self.victim()
        if not worker.cut:
            self.agenda.say(f"w{worker.number} is cut off from the coordinator")
            worker.cut = True
            self.agenda.later(self.agenda.chance() * 4 * SESSION, self.connect, None, worker)
            self.linger()

    def linger(self) -> None:
        """Let a session pass with nothing else, now and then: what was begun before it is in everybody's way."""
        if self.agenda.chance() < 0.5:
            self.move_to(self.agenda.now + 1.1 * SESSION)

    def connect(self, worker: Worker) -> None:
        """Let the coordinator hear of a worker again."""
        if worker.cut and not worker.dead:
            self.agenda.say(f"w{worker.number} is connected again")
            worker.cut = False
            self.agenda.soon(worker.wake, worker)

    def crash(self) -> None:
        """Let a process end at any point, and another one start."""
        worker = self.victim()
        self.agenda.say(f"w{worker.number} crashes")
        if worker.writes and self.agenda.chance() < 0.5:
            worker.commit_group(None)
        if worker.member:
            silent = worker.heard + SESSION - self.agenda.now
            self.agenda.later(max(0.0, silent), self.expel, None, worker)
        self.end_process(worker)

    def end_process(self, worker: Worker) -> None:
        """Forget everything that a process had in memory, and start another one."""
        worker.dead = True
        self.oracle.unaware.add(worker.number)
        for flight in worker.flights:
            flight.ended = True
            for call in flight.calls:
                self.oracle.ended(call, known=False)
        if worker.core.stopping:
            self.disown(worker)
        self.hire()

    def stop(self) -> None:
        """Send a worker SIGTERM."""
        worker = self.someone()
        if worker.ready and worker.in_session and not worker.core.stopping:
            worker.stop(self.agenda.chance() * 30)

    # What breaks.

    def refuse_letters(self) -> None:
        """Let the dead-letter topic refuse, or accept again."""
        broker = self.world.broker
        broker.refuses_letters = not broker.refuses_letters
        self.agenda.say(f"broker {'refuses' if broker.refuses_letters else 'accepts'} letters")

    def break_ledger(self) -> None:
        """Let the ledger be down, or up again."""
        self.world.ledger_down = not self.world.ledger_down
        self.agenda.say(f"ledger is {'down' if self.world.ledger_down else 'up'}")

    def break_target(self) -> None:
        """Let the target be down, or refuse everything."""
        target, x = self.world.target, self.agenda.below(8)
        target.down = x < 4
        target.refuses_all = 0 if target.down else (422, 403, 401, 503)[x - 4]
        self.agenda.say(f"target {'is down' if target.down else f'answers {target.refuses_all} to everything'}")

    def heal(self) -> None:
        """Let the target be well again."""
        self.world.target.down = False
        self.world.target.refuses_all = 0
        self.agenda.say("target is up")

    # What people do.

    def order(self) -> None:
        """Let every worker hear of the orders that hold now."""
        for worker in self.workers:
            self.agenda.soon(worker.obey, worker)

    def pause(self) -> None:
        """Pause the sink, or resume it."""
        self.world.paused = not self.world.paused
        self.agenda.say(f"person {'pauses' if self.world.paused else 'resumes'} the sink")
        self.order()

    def skip(self) -> None:
        """Order an event to be skipped that is not finished."""
        rows = self.world.ledger.rows
        unfinished = [
            one.number
            for one in self.world.happenings
            if not one.poison and ((row := rows.get(one.number)) is None or row.state is State.INTENT)
        ]
        if unfinished:
            self.order_skip(unfinished[self.agenda.below(len(unfinished))])

    def skip_announced(self, number: int) -> None:
        """Order an event to be skipped whose call is announced while another worker holds it too, now and then."""
        holders = sum(PLACES[number] in worker.core._open for worker in self.workers if not worker.dead)
        if holders > 1 and self.skip in self.possible and self.agenda.chance() < 0.5:
            self.order_skip(number)

    def order_skip(self, number: int) -> None:
        """Order an event to be skipped."""
        self.agenda.say(f"person skips {EVENTS[number].id}")
        self.world.skips[number] = None
        self.oracle.skip_ordered(number)
        self.order()

    def go_on(self) -> None:
        """End the halts."""
        for worker in self.workers:
            if worker.core.halted and worker.ready and worker.in_session:
                worker.end_session("told to go on")

    def replay(self) -> None:
        """Replay a letter, a key, or all letters."""
        world = self.world
        dead = [number for number, row in world.ledger.rows.items() if row.state in LETTERS]
        if not dead or len(world.ledger.runs) > 2:
            return
        one = dead[self.agenda.below(len(dead))]
        key = world.happenings[one].key
        of_key = {number for number in dead if world.happenings[number].key == key and key is not None}
        x = self.agenda.chance()
        if x < 0.4:
            self.send_again({one})
        elif x < 0.8 and key is not None:
            self.send_again(of_key, following=key)
        else:
            self.send_again(set(dead))

    def replay_twice(self) -> None:
        """Replay the same letters in two runs, of which one is soon over."""
        dead = {number for number, row in self.world.ledger.rows.items() if row.state in LETTERS}
        if dead:
            run = self.send_again(dead)
            self.send_again(dead)
            self.over(run)

    def discard(self) -> None:
        """Discard a letter."""
        dead = [number for number, row in self.world.ledger.rows.items() if row.state in LETTERS]
        if dead:
            self.give_up(dead[self.agenda.below(len(dead))])

    def give_up(self, number: int) -> None:
        """Discard an event for good."""
        self.agenda.say(f"person discards e{number}")
        self.world.ledger.discard(self.world.happenings[number])

    def send_again(self, chosen: set[int], following: int | None = None) -> str:
        """Begin a run of letters, in the order of their origin."""
        run = f"r{len(self.oracle.began) + 1}"
        self.world.ledger.runs[run] = self.agenda.chance() < 0.3
        self.oracle.run_began(run)
        ordered = sorted((self.world.happenings[one] for one in chosen), key=lambda one: (one.partition, one.offset))
        if following is not None:
            self.following[run] = {following}
        self.agenda.say(f"person replays {', '.join(f'e{one.number}' for one in ordered)} as {run}")
        self.agenda.soon(self.send_next, None, (run, deque(ordered)))
        if self.agenda.chance() < 0.2:
            self.agenda.later(3 * self.agenda.chance(), self.interrupt, None, run)
        return run

    def send_next(self, given: tuple[str, deque[Happening]]) -> None:
        """Write the next record of a run."""
        run, left = given
        happening = left.popleft()
        self.append(Slot(REPLAY, happening.partition), happening, run)
        if self.agenda.chance() < 0.1:
            left.append(happening)  # a copy, as a sender's retry makes them
        if left and run in self.world.ledger.runs:
            self.agenda.soon(self.send_next, None, given)

    def follow(self, happening: Happening) -> None:
        """Let what is parked of a key while it is replayed be replayed too, again and again while the run is live."""
        for run, keys in self.following.items():
            short = len(self.world.broker.logs[Slot(REPLAY, happening.partition)]) < LONGEST
            if happening.key in keys and run in self.world.ledger.runs and short:
                self.agenda.soon(self.send_next, None, (run, deque([happening])))

    def end_run(self) -> None:
        """End the oldest run, whatever is left of it."""
        if self.world.ledger.runs:
            self.over(next(iter(self.world.ledger.runs)))

    def interrupt(self, run: str) -> None:
        """End a run early, unless it is over."""
        if run in self.world.ledger.runs:
            self.over(run)

    def over(self, run: str) -> None:
        """End a run."""
        del self.world.ledger.runs[run]
        self.oracle.over.add(run)
        self.agenda.say(f"{run} is over")
        for worker in self.workers:
            self.agenda.later(self.agenda.chance(), worker.ask_runs, worker, None)

    # The end.

    def heal_all(self) -> None:
        """Let nothing go wrong any more."""
        world = self.world
        world.ledger_trouble = world.target.trouble = 0.0
        world.ledger_down = world.broker.refuses_letters = world.paused = False
        world.calm = True
        self.heal()
        self.agenda.say("everything heals")
        for worker in self.workers:
            self.thaw(worker)
            self.connect(worker)
        self.order()

    def settle(self) -> None:
        """See that all comes to its end."""
        agenda = self.agenda
        until, idle, replays = agenda.now + CALM, 0, agenda.chance() < 0.4
        chance, pending, happen = agenda.chance, agenda.pending, agenda.happen
        for _ in range(8_000):
            if pending:
                happen(int(chance() * len(pending)))
                continue
            self.balance()
            for worker in self.workers:
                if worker.core.halted:
                    self.skip_changes()
                    self.go_on()
                if worker.slots:
                    worker.fetch(all_of_it=True)
            for worker in () if pending else self.workers:
                worker.commit(parks=0.1)
            if pending:
                idle = 0
                continue
            if self.done():
                if not (replays and self.repair()):
                    break
                replays = False
                continue
            if self.policy.after_dead == "block" and self.waits_for_a_person() and self.repair():
                continue
            idle += 1
            for worker in self.workers:
                if worker.core._barred:
                    worker.read_parks()
            if agenda.now > until or (idle > 10 and not agenda.timers):
                self.stalled("nothing is under way")
            self.move_to(self.next_timer(agenda.now + 1.0))
        else:
            self.stalled("it does not come to an end")
        self.oracle.settled({slot: end for slot, end in self.world.broker.ends.items() if end})
        for worker in self.workers:
            self.account(worker)

    def next_timer(self, otherwise: float) -> float:
        """Say when something is due; what waits for an answer that has come is not."""
        timers = self.agenda.timers
        while timers and isinstance(flight := timers[0][2][2], Flight) and flight.ended:
            heappop(timers)
        return timers[0][0] if timers else otherwise

    def done(self) -> bool:
        """Say whether everything is committed and nothing is held."""
        return self.all_read(MAIN) and self.all_read(REPLAY) and not any(one.core._open for one in self.workers)

    def all_read(self, topic: str) -> bool:
        """Say whether everything in a topic is committed."""
        ends, position = self.world.broker.ends, self.oracle.position
        return all(position.get(slot, 0) >= end for slot, end in ends.items() if end and slot.topic == topic)

    def skip_changes(self) -> None:
        """Order to skip what a worker stands still for because it came with another content (L1)."""
        for worker in self.workers:
            if "another content" in (why := str(worker.core.halted)):
                number = int(why.split()[1][1:])
                if number not in self.world.skips:
                    self.order_skip(number)

    def waits_for_a_person(self) -> bool:
        """Say whether all that is open waits behind a blocked key."""
        stages = {one.stage for worker in self.workers for one in worker.core._open.values()}
        return stages <= {Stage.QUEUED} and self.all_read(REPLAY)

    def repair(self) -> bool:
        """Let a person replay all that is dead, or discard it where that is hopeless; say whether there is any."""
        world = self.world
        for run in list(world.ledger.runs):
            self.over(run)
        hopeful: set[int] = set()
        dead = sorted(number for number, row in world.ledger.rows.items() if row.state in LETTERS)
        for number in dead:
            if world.happenings[number].poison or world.happenings[number].claims >= 0:
                self.give_up(number)
            else:
                hopeful.add(number)
        if hopeful:
            self.send_again(hopeful)
        return bool(dead)

    def stalled(self, why: str) -> None:
        """Say where it stands."""
        where = [
            f"w{one.number} {one.core.counts()} {one.at} thread_waits={one.thread_waits} member={one.member} "
            f"halted={one.core.halted!r} parked={one.core._barred}"
            for one in self.workers
        ]
        raise Broken(f"stalled: {why}: {dict(self.oracle.position)} of {dict(self.world.broker.ends)}; {where}")

    def account(self, worker: Worker) -> None:
        """Check that nothing is left over and that the counts add up."""
        core = worker.core
        left = (
            dict(+core._held),
            core._bytes,
            len(core._lanes),
            core._lanes.calling,
            core._open,
        )
        if left != ({}, 0, 0, 0, {}):
            raise Broken(f"left-over: w{worker.number}: held, bytes, lanes, calling, open are {left}")
        ended = worker.recorded + worker.found_finished + worker.dropped
        if core.accepted != ended:
            raise Broken(
                f"miscounted: w{worker.number} accepted {core.accepted}; recorded {worker.recorded}, found finished "
                f"{worker.found_finished}, dropped {worker.dropped}"
            )
