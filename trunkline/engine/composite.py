"""Makes the calls of one composite delivery: one attempt, as far as it comes.

An attempt takes no longer than one call may (D7, D9): in its second half it begins nothing more, and the next attempt
goes on from what the ledger knows.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any, Protocol, assert_never

from trunkline.engine.calling import verdict_of
from trunkline.errors import Halt, Permanent, Poison, Retryable, Unavailable, Unknown
from trunkline.event import Event
from trunkline.flow.composite import (
    Begin,
    Change,
    Close,
    Composite,
    Course,
    End,
    Ended,
    GiveUp,
    Made,
    Make,
    Open,
    Outcome,
    Rest,
    State,
    Wait,
    Withdraw,
    advance,
    call_of,
    kept_of,
    undoes,
    write,
)
from trunkline.requests import Request
from trunkline.responses import Response
from trunkline.verdict import Delivered, Superseded, Verdict, checked

UNSENT = (None, 429)
"""What a Retryable says when the call certainly had no effect: no connection, or not let in."""
NOT_LET_IN = (401, 407, 429)
"""Answers that say the same, whatever the sink makes of them."""


class Desk(Protocol):
    """What an attempt is made with."""

    async def note(self, change: Change) -> Course:
        """Make a change durable and give what stands after it; raises Unavailable."""
        ...

    async def send(self, step: str, key: str, request: Request, *, again: bool) -> Response:
        """Make the call of a step, whose idempotency key is made of `key`; raises as a target's `send` does."""
        ...

    async def publish(self, round_: int, outcome: Outcome) -> None:
        """Publish the result, acknowledged; raises Unavailable, or Permanent when it cannot be written."""
        ...

    def may_begin(self) -> bool:
        """Say whether calls may still begin: lease, partition and flow are as they were."""
        ...

    def told(self, words: str) -> str:
        """Give words without secrets."""
        ...


class Attempt:
    """One attempt at a composite delivery."""

    def __init__(
        self, sink: Composite, event: Event[Any], desk: Desk, *, seconds: float, now: Callable[[], float] = time.time
    ) -> None:
        """Prepare; the attempt takes at most `seconds`, `now` gives epoch seconds."""
        self._sink = sink
        self._event = event
        self._desk = desk
        self._seconds = seconds
        self._now = now
        self._course = Course()
        self._tried: dict[str, Exception] = {}
        self._ends = 0.0

    async def run(self, run: str = "") -> Verdict:
        """Go on as far as possible and say what came of it; `run` is the live replay that asks for it.

        Raises:
            Unavailable: ledger, broker or a target stand still; nothing is lost, ask again later.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        self._ends = began + self._seconds
        self._course = await self._desk.note(Open(self._now(), run))
        tasks: dict[str, asyncio.Task[None]] = {}
        try:
            while True:
                following = advance(
                    self._sink, self._course, busy=tasks.keys(), tried=self._tried.keys(), now=self._now()
                )
                match following:
                    case Make(steps) if self._desk.may_begin() and loop.time() < began + self._seconds / 2:
                        tasks |= {step: loop.create_task(self._make(step)) for step in steps}
                    case Make() | Wait() if tasks:
                        await asyncio.wait(tasks.values(), return_when=asyncio.FIRST_COMPLETED)
                        for step, task in list(tasks.items()):
                            if task.done():
                                del tasks[step]
                                task.result()
                    case Make() | Wait() | Rest():
                        return self._unfinished()
                    case GiveUp() | Close():
                        self._course = await self._desk.note(following)
                    case End(verdict, outcome):
                        if outcome is not None:  # before the ledger hears of the end: it may come twice, always alike
                            await self._desk.publish(self._course.round, outcome)
                        return verdict
                    case _:
                        assert_never(following)
        finally:
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)

    def _until(self) -> float:
        """Say when a call that begins now is cut: at the end of the attempt, or when the whole is late."""
        if self._course.given_up:
            return self._ends
        late = self._course.began + self._sink.deadline.total_seconds() - self._now()
        return min(self._ends, asyncio.get_running_loop().time() + late)

    def _unfinished(self) -> Verdict:
        """Say why there is more to do, with the longest wish of a target."""
        failures = list(self._tried.values())
        for kind in (Halt, Unavailable):
            for failure in failures:
                if isinstance(failure, kind):
                    if isinstance(failure, Halt):
                        return failure
                    raise failure
        words = "; ".join(f"{step} {failure}" for step, failure in self._tried.items())
        waits = [failure.after for failure in failures if isinstance(failure, Retryable) and failure.after is not None]
        if failures and all(isinstance(failure, Unknown) for failure in failures):
            return Unknown(words)
        return Retryable(words or "the attempt was stopped between two calls", after=max(waits, default=None))

    async def _make(self, step: str) -> None:
        """Make a step and note what came of it; what has no end yet is kept for the attempt's own end."""
        try:
            verdict, kept, unsent = await self._called(step)
            match verdict:
                case None:
                    return
                case Delivered() | Superseded():
                    made = Made(State.DONE, kept)
                case Permanent() | Poison():
                    made = Made(State.FAILED, why=self._desk.told(str(verdict)))
                case _:
                    if unsent:
                        self._course = await self._desk.note(Withdraw(self._course.round, step))
                    self._tried[step] = verdict
                    return
            self._course = await self._desk.note(Ended(self._course.round, step, made))
        except Unavailable as error:
            self._tried[step] = error

    async def _called(self, step: str) -> tuple[Verdict | None, Any, bool]:
        """Begin a step, make its call and judge the answer; None when it needs no call after all.

        Give with it what is kept of the answer, and whether the call certainly had no effect, whatever the sink says.
        """
        course = self._course
        response = None
        try:
            request = write(self._sink, step, self._event, course.answers)
        except BaseException as error:  # noqa: BLE001 - whatever an adapter raises has a verdict
            return verdict_of(error), {}, False
        again = step in course.made
        self._course = await self._desk.note(Begin(course.round, step))
        if self._course.round != course.round or self._course.state(step) is not State.BEGUN or self._course.closed:
            return None, {}, False
        try:
            async with asyncio.timeout_at(self._until()):
                response = await self._desk.send(step, course.key(step), request, again=again)
            verdict = checked(self._sink.verdict(response))
            kept: Any = {}
            if isinstance(verdict, Delivered | Superseded) and not undoes(step):
                call = next(call for call in self._sink.calls if call.name == call_of(step))
                kept = kept_of(call, response)
        except TimeoutError:
            return Unknown("had no answer in time"), {}, False
        except Unavailable:
            self._course = await self._desk.note(Withdraw(course.round, step))
            raise
        except BaseException as error:  # noqa: BLE001 - whatever an adapter or a call raises has a verdict
            verdict, kept = verdict_of(error), {}
            if verdict is not error and response is not None and response.status < 300:  # a bug refuses nothing
                verdict = Unknown(f"answered {response.status}, and what that means is not known: {verdict}")
        if response is not None:
            return verdict, kept, response.status in NOT_LET_IN
        return verdict, kept, isinstance(verdict, Halt) or (isinstance(verdict, Retryable) and verdict.status in UNSENT)
