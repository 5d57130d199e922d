"""Look-ups: what targets answer to GET, asked for by every event of a batch at once, before its transaction (P2).

    step wants keys ─▶ Cache ─▶ gathered for a turn of the loop ─▶ Gate (the flow's share, D13) ─▶ Transport

A target that fails keeps its events waiting: it is asked again for as long as somebody wants to know.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from pydantic import ValidationError

from trunkline.engine.cache import Cache
from trunkline.engine.targets import Gate, Targets
from trunkline.errors import Halt, Permanent, Retryable, TrunklineError, Unavailable, Unknown, pass_on
from trunkline.flow.declare import Lookup, Process, flow_name, lookups_of
from trunkline.flow.rows import Remote, Row, Rows
from trunkline.formats import json
from trunkline.formats.shapes import fields_of, read_exactly, read_json
from trunkline.kafka import events
from trunkline.observe import Observed, Observer
from trunkline.requests import Idempotency, Request, expand
from trunkline.responses import Response
from trunkline.verdict import Retry, backoff, judge

WIDTH = 64
"""Requests of one look-up that are under way at once."""
NO_KEY = Idempotency(header=None)
PATIENCE = Retry()
"""How the waits between two requests for the same keys grow; they never end."""
TOLD = 1.0
"""Seconds between two words about a target that fails."""


class Turns:
    """Waits for room at a target, for the look-ups of one flow."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._waiting: list[asyncio.Future[None]] = []
        gate.wake = self._wake

    async def room(self, unless: Callable[[], bool]) -> bool:
        """Return when a call may begin now; or False, when none may and what is asked then says that it need not."""
        while self._gate.room(now := events.clock()) <= 0:
            if unless():
                return False
            self._gate.rest(now)
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            await turn
        return True

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for turn in waiting:
            if not turn.done():
                turn.set_result(None)


class Asker(Remote):
    """Asks one target for the rows of one look-up; everything is called on the loop."""

    def __init__(self, lookup: Lookup, flow: str, targets: Targets, turns: Turns, observe: Observer) -> None:
        self._lookup = lookup
        self._flow = flow
        self._targets = targets
        self._turns = turns
        self._observe = observe
        self._cache = Cache(lookup)
        self._wanted: dict[str, asyncio.Future[Row | None]] = {}
        self._wanting: Counter[str] = Counter()
        """How many wait for a key."""
        self._width = asyncio.Semaphore(WIDTH)
        self._tasks: set[asyncio.Task[None]] = set()
        self._gathering = False
        self._told = 0.0

    async def ask(self, keys: Sequence[str]) -> Rows:
        """Give the rows of these keys; waits for as long as the target fails.

        Raises:
            Permanent, Halt: as `Remote` says.
        """
        now = events.clock()
        found: dict[str, Row] = {}
        wanted: list[str] = []
        for key in keys:
            if (answer := self._cache.fresh(key, now)) is None:
                wanted.append(key)
            elif answer.row is not None:
                found[key] = answer.row
        if wanted:
            rows = await self._want(wanted)
            found.update((key, row) for key, row in zip(wanted, rows, strict=True) if row is not None)
        return found

    async def close(self) -> None:
        """Ask no more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _want(self, keys: Sequence[str]) -> list[Row | None]:
        loop = asyncio.get_running_loop()
        futures = [self._wanted.setdefault(key, loop.create_future()) for key in keys]
        self._cache.want(keys)
        self._wanting.update(keys)
        if not self._gathering:
            self._gathering = True
            loop.call_soon(self._send)
        try:
            await asyncio.wait(futures)  # which leaves them alone when this event is given up, others may wait too
        finally:
            self._wanting.subtract(keys)
        return [future.result() for future in futures]

    def _send(self) -> None:
        self._gathering = False
        while keys := self._cache.take():
            task = asyncio.get_running_loop().create_task(self._fetch(keys))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _fetch(self, keys: Sequence[str]) -> None:
        """Ask for keys until there is an answer; if the target refuses several, ask for each by itself."""
        try:
            async with self._width:
                rows = await self._insist(keys)
        except (Permanent, Halt) as error:
            if len(keys) > 1 and isinstance(error, Permanent):
                for key in keys:
                    await self._fetch([key])
                return
            self._end(keys, error=error)
        except BaseException as error:  # noqa: BLE001 - a split that somebody wrote may raise anything
            pass_on(error)
            self._end(keys, error=Permanent(f"bug in {self._lookup.name}: {type(error).__name__}: {error}"))
        else:
            self._end(keys, rows=rows or {})

    async def _insist(self, keys: Sequence[str]) -> dict[str, Row] | None:
        """Give the rows of keys, from the cache when the target fails and that may be; None when nobody wants them.

        Raises:
            Permanent, Halt: the target refuses.
        """
        attempt = 0
        while any(self._wanting[key] for key in keys):
            attempt += 1
            try:
                rows = await self._call(keys)
                self._cache.answered(keys, rows, events.clock())
            except (Retryable, Unknown, Unavailable) as error:
                if (old := self._old(keys)) is not None:
                    self._see("stale", keys)
                    return old
                self._tell(error)
                after = (error.after or 0.0) if isinstance(error, Retryable) else 0.0
                await asyncio.sleep(max(after, backoff(attempt, PATIENCE, lambda: 1.0)))
            else:
                return rows
        return None

    def _old(self, keys: Sequence[str]) -> dict[str, Row] | None:
        """Give the rows of keys as they were known before; None unless all of them may still be used."""
        now = events.clock()
        answers = {key: answer for key in keys if (answer := self._cache.usable(key, now)) is not None}
        if len(answers) < len(keys):
            return None
        return {key: answer.row for key, answer in answers.items() if answer.row is not None}

    async def _call(self, keys: Sequence[str]) -> dict[str, Row]:
        request = request_of(self._lookup, keys)
        if not await self._turns.room(lambda: self._stands_still and self._old(keys) is not None):
            raise Unavailable(f"target {self._lookup.target.name} is not called now")
        began = events.clock()
        response = await self._targets.call(self._flow, self._lookup.target, request, "", NO_KEY, again=False)
        rows = read(self._lookup, keys, response)
        self._see("answered", keys, seconds=events.clock() - began)
        return rows

    @property
    def _stands_still(self) -> bool:
        return self._lookup.target.name in self._targets.standing()

    def _end(
        self, keys: Collection[str], *, rows: Mapping[str, Row] | None = None, error: Exception | None = None
    ) -> None:
        self._cache.ended(keys)
        for key in keys:
            future = self._wanted.pop(key)
            if rows is None:
                assert error is not None
                future.set_exception(error)
                future.exception()  # it may be that nobody waits any more
            else:
                future.set_result(rows.get(key))

    def _tell(self, error: Exception) -> None:
        if (now := events.clock()) - self._told > TOLD:
            self._told = now
            self._observe(Observed("stuck", self._flow, detail=f"{self._lookup.name} waits: {error}"))

    def _see(self, outcome: str, keys: Collection[str], seconds: float = 0.0) -> None:
        name, target = self._lookup.name, self._lookup.target.name
        seen = Observed(
            "looked up", self._flow, len(keys), detail=name, target=target, outcome=outcome, seconds=seconds
        )
        self._observe(seen)


def request_of(lookup: Lookup, keys: Sequence[str]) -> Request:
    """Give the request for keys.

    Raises:
        Permanent: one of them has no place in a path.
    """
    if lookup.split is None:
        [key] = keys
        return Request.get(lookup.path, path={"key": key})
    many = ",".join(expand("{key}", {"key": key}) for key in keys)
    return Request("GET", lookup.path.replace("{keys}", many))


def read(lookup: Lookup, keys: Sequence[str], response: Response) -> dict[str, Row]:
    """Give the rows of an answer.

    Raises:
        Retryable, Permanent, Halt: what the answer means when it has none.
    """
    if response.status in (404, 410) and lookup.split is None:
        return {}
    verdict = judge(response.status, response.headers, response.body, now=datetime.now(UTC), method="GET", keyed=False)
    match verdict:
        case Permanent():
            raise Permanent(f"{lookup.name} {verdict}", status=verdict.status)
        case TrunklineError():
            raise verdict
        case _:
            pass
    try:
        found = response.json()
    except Unknown as error:
        raise Permanent(f"{lookup.name} {error}", status=response.status) from None
    # As the keys of events are: what a split takes out of JSON may be a number.
    rows = {keys[0]: found} if lookup.split is None else {str(key): row for key, row in lookup.split(found).items()}
    return {key: checked(lookup, rows[key]) for key in keys if rows.get(key) is not None}


def checked(lookup: Lookup, row: Any) -> Row:
    """Give a row as its type has it; fields that the type has not are left out.

    Raises:
        Permanent: it is none.
    """
    shape: type[Row] = lookup.record
    try:
        # As strings decimals keep all their digits; but where the type has a float it wants a number.
        with suppress(ValidationError):
            return read_json(shape, json.dumps(row))
        return read_exactly(shape, json.dumps(numbered(row)))
    except ValidationError as error:
        names = ", ".join(path for path, _ in fields_of(error)[:5])
        told = f"{lookup.name} answered what is no {lookup.record.__name__}; wrong or missing: {names}"
        raise Permanent(told) from None


def numbered(value: Any) -> Any:
    """Copy a value so that its decimals are written as numbers."""
    match value:
        case dict():
            return {name: numbered(each) for name, each in value.items()}
        case list():
            return [numbered(each) for each in value]
        case Decimal():
            return json.Number(value)
        case _:
            return value


def askers_of(flow: Process, targets: Targets, observe: Observer) -> dict[str, Asker]:
    """Give what a flow asks targets with, by look-up."""
    name = flow_name(flow)
    lookups = {lookup.name: lookup for step in flow.steps for lookup in lookups_of(step)}
    turns = {one.target.name: Turns(targets.gate(name, one.target)) for one in lookups.values()}
    return {one.name: Asker(one, name, targets, turns[one.target.name], observe) for one in lookups.values()}
