"""Targets that tell in each answer how many calls they take, and count for themselves those that they refuse."""

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.trunkline.integration.test_delivering import finished
from tests.trunkline.support import Stage, deliver_bus, note, say, wait_for

QUOTA = 20
"""Calls that are taken in a window of a second."""
Tell = Callable[[int, int], dict[str, str]]
TOLD: dict[str, Tell] = {
    "RateLimit": lambda left, reset: {
        "RateLimit": f'"20-in-1sec"; r={left}; t={reset}',
        "RateLimit-Policy": f'"20-in-1sec"; q={QUOTA}; w=1; pk=:MTJjYTE3YjQ5YWYy:',
    },
    "RateLimit, older": lambda left, reset: {
        "RateLimit": f"limit={QUOTA}, remaining={left}, reset={reset}",
        "RateLimit-Policy": f"{QUOTA};w=1",
    },
    "X-RateLimit": lambda left, reset: {
        "X-RateLimit-Limit": str(QUOTA),
        "X-RateLimit-Remaining": str(left),
        "X-RateLimit-Reset": str(math.ceil(time.time()) + reset - 1),
    },
}
"""What express-rate-limit 8 writes beside its answers (draft 8, draft 7, and what others have sent before them)."""


@dataclass
class Meter:
    """Takes so many calls in each second of the clock, refuses the others, and says so."""

    tell: Tell
    taken: list[str] = field(default_factory=list)
    refused: int = 0
    window: tuple[int, int] = (0, 0)

    async def take(self, request: Request) -> Response:
        second = int(time.time())
        begun, count = self.window
        count = count + 1 if begun == second else 1
        self.window = second, count
        headers = self.tell(max(0, QUOTA - count), 1)
        if count > QUOTA:
            self.refused += 1
            return Response(status_code=429, headers={**headers, "Retry-After": "1"})
        self.taken.append(request.url.path)
        return Response(status_code=201, headers=headers)

    @contextmanager
    def running(self) -> Iterator[str]:
        app = Starlette(routes=[Route("/{rest:path}", self.take, methods=["POST", "PUT"])])
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, name="meter")
        thread.start()
        try:
            wait_for(lambda: server.started)
            yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(30)


@pytest.mark.parametrize("form", TOLD)
def test_a_limit_that_a_target_tells_is_kept(stage: Stage, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    bus = stage.make(deliver_bus(stage.prefix, partitions=1))
    meter = Meter(TOLD[form])
    with meter.running() as url:
        monkeypatch.setenv("SHELF_URL", url)
        stage.write(bus, [note(0, "first")])
        with stage.running(bus):
            wait_for(finished(stage, bus))
            stage.write(bus, [note(1, f"k{number}") for number in range(10 * QUOTA)])
            began = time.monotonic()
            wait_for(finished(stage, bus), seconds=60, why=lambda: vars(meter))
    say(f"\n{form}: {len(meter.taken)} taken, {meter.refused} refused, {time.monotonic() - began:.1f} s")
    assert len(set(meter.taken)) == len(meter.taken) == 10 * QUOTA + 1
    assert meter.refused <= QUOTA
