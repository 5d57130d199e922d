"""The APIs: what becomes of a request to one of them."""

import asyncio
import hashlib
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from urllib.parse import unquote

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from trunkline.dev.target.active import Active
from trunkline.dev.target.answers import answer, problem, refusal
from trunkline.dev.target.behaviour import Behaviour
from trunkline.dev.target.call import Call, key_of
from trunkline.dev.target.connection import cut
from trunkline.dev.target.records import Records
from trunkline.dev.target.requirement import Requirement


class Apis:
    """Every API, and what is wrong with each."""

    def __init__(self, records: Records, required: Sequence[Requirement]) -> None:
        self.records = records
        self.active: dict[int, Active] = {}
        self.in_flight: dict[str, int] = {}
        self.lanes: dict[tuple[str, str], set[int]] = {}
        self.max_in_flight: dict[str, int] = {}
        self._required = {requirement.name: requirement for requirement in required}
        self._numbers = itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or cut its connection."""
        request = Request(scope, receive)
        _, name, *rest = scope["raw_path"].decode("ascii").split("/", 2)
        if not name:
            await problem(404, "The path names no API: the first segment is its name.")(scope, receive, send)
            return
        try:
            body = await request.body()
        except ClientDisconnect:
            return
        path = "/" + "".join(rest)
        method = request.method
        key = key_of(method, path, request.headers)
        call = Call(unquote(name), method, path, key, body, hashlib.sha256(body).hexdigest())
        with self._flying(call) as seq:
            striking = [active for active in self.active.values() if active.strikes(call)]
            response = await self._answer(call, seq, request, striking)
            shape = next((active for active in striking if active.behaviour.shapes), None)
            if response is None:
                await cut(scope, receive)
            elif shape is None:
                await response(scope, receive, send)
        if response is not None and shape is not None:  # a client may walk away from the rest and call again
            await shape.pour(response, receive, send)

    async def _answer(self, call: Call, seq: int, request: Request, striking: Sequence[Active]) -> Response | None:
        """Do what the request asks and what the behaviours say; None gives no answer. All of it is in the file."""
        response = await self._decide(call, seq, request, striking)
        if response is not None:
            self.records.settle(seq, response.status_code)
        await self.records.committed()
        if latency := sum(active.behaviour.latency_ms for active in striking):
            await asyncio.sleep(latency / 1000)
        return response

    async def _decide(self, call: Call, seq: int, request: Request, striking: Sequence[Active]) -> Response | None:
        required = self._required.get(call.name)
        if required is not None and not required.met(request.headers):
            return problem(401, f"The header {required.header} is missing or holds another value.")
        stores = next((active.behaviour.stores for active in striking if active.behaviour.stores), None)
        honours = all(active.behaviour.honour_keys for active in striking)
        apply = (
            partial(self.records.apply, call, seq, honour_keys=honours)
            if stores is None
            else partial(self.records.store, call, seq, stores)
        )
        fault = next((active for active in striking if active.behaviour.fails), None)
        if fault is None:
            return answer(call, apply())
        behaviour = fault.behaviour
        outcome = apply() if behaviour.after_apply else None
        if behaviour.hang is not None and not await fault.hold(request.receive):
            return None
        if behaviour.reset:
            return None
        if behaviour.status is not None:
            return refusal(behaviour.status, behaviour)
        return answer(call, outcome or apply())

    def add(self, behaviour: Behaviour) -> int:
        """Let an API misbehave from now on; return the behaviour's id."""
        number = next(self._numbers)
        self.active[number] = Active(number, behaviour)
        return number

    def heal(self, name: str | None = None) -> int:
        """End what is wrong with one API, or with all of them, cut what they hold and return how many things it was."""
        healed = [number for number, active in self.active.items() if name in {None, active.behaviour.name}]
        for number in healed:
            self.active.pop(number).healed.set()
        return len(healed)

    async def clear(self) -> None:
        """Heal every API and forget what was recorded; ids, and with them chances, start again."""
        self.heal()
        self._numbers = itertools.count(1)
        self.max_in_flight = {name: count for name, count in self.in_flight.items() if count}
        await self.records.clear()

    @contextmanager
    def _flying(self, call: Call) -> Iterator[int]:
        name = call.name
        others = self.in_flight.get(name, 0)
        lane = self.lanes.setdefault(call.lane, set())
        seq = self.records.arrive(call, others=others, beside=lane)
        lane.add(seq)
        self.in_flight[name] = others + 1
        self.max_in_flight[name] = max(self.max_in_flight.get(name, 0), others + 1)
        try:
            yield seq
        finally:
            self.in_flight[name] -= 1
            lane.remove(seq)
            if not lane:
                self.lanes.pop(call.lane, None)
