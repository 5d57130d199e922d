"""Faust, as far as the bus uses it: it runs the bodies of agents, one Faust agent for each partition.

The only importer of Faust. What it is not asked to do: read topics, commit offsets, keep tables, write, serve. It would
acknowledge an event whose body has raised, read what a transaction has aborted, and commit past a gap; so its app is
never started and connects to nothing (docs/decisions/).
"""

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Any, Self, cast

from trunkline.errors import Permanent
from trunkline.event import Event, Moment

if TYPE_CHECKING:  # 19 MiB and a quarter of a second that a worker without agents does not spend
    import faust

LOADING = threading.Lock()
"""Faust loads its parts when they are first asked for, which two flows that start together must not do at once."""
STOPPING = 2.0
"""Seconds that a body may take to end when its partition is taken away."""


def app_of(group: str) -> "faust.App":
    """Give the app that the agents of a flow belong to; nothing of it runs but they."""
    with LOADING:
        import faust  # noqa: PLC0415 - as above

        app = faust.App(group, store="memory://", web_enabled=False, autodiscover=False)
        app.consumer = cast("Any", Unread())
        _ = faust.Agent  # loaded by now, whoever asks for it next
    return app


class Unread:
    """In place of Faust's consumer, which every stream looks for and none of ours needs."""

    def __init__(self) -> None:
        self.unacked = self._unacked_messages = set[Any]()


class Belt:
    """What one body is given, one moment after another: the channel of its Faust agent."""

    active_partitions = None

    def __init__(self, beat: Callable[[], None]) -> None:
        self.waiting: deque[Moment[Any]] = deque()
        self.taken: int = 0
        """Moments that the body has asked for."""
        self.busy = False
        """Whether the body has a moment and has not asked for the next one."""
        self.over = False
        self._beat = beat
        self._filled = asyncio.Event()
        self.rest = asyncio.Event()
        """Set when the body asks for more than there is."""

    def clone(self, **_: object) -> Self:
        """Be the one channel of the agent's one stream."""
        return self

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Moment[Any]:
        self.busy = False
        self._beat()
        while not self.waiting and not self.over:
            self.rest.set()
            self._filled.clear()
            await self._filled.wait()
        if self.over:
            raise StopAsyncIteration
        self.taken += 1
        self.busy = True
        return self.waiting.popleft()

    def put(self, moments: Sequence[Moment[Any]]) -> None:
        """Let the body have these."""
        self.rest.clear()
        self.waiting.extend(moments)
        self._filled.set()

    def _throw(self, _: BaseException) -> None:
        """End the stream: how Faust stops an actor."""
        self.over = True
        self._filled.set()


class Actor:
    """One body at work on one partition. It lives in one loop, and is over when the body has failed."""

    def __init__(
        self,
        app: "faust.App",
        name: str,
        body: Callable[[Any], AsyncIterator[Any]],
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare; `beat` is called whenever the body asks for a moment."""
        self._body = body
        self._belt = Belt(beat)
        self._made: list[list[Event[Any]]] = []
        self._failure: BaseException | None = None
        import faust  # noqa: PLC0415 - as above

        self._agent = faust.Agent(
            self._guarded, app=app, name=name, channel=app.channel(), concurrency=1, sink=[self._took]
        )
        self._agent.channel_iterator = self._belt

    async def start(self) -> None:
        """Let the body begin."""
        await self._agent.start()

    async def give(self, moments: Sequence[Moment[Any]]) -> tuple[list[list[Any]], BaseException | None]:
        """Give moments; return what the body made of each that it has finished, and what it raised at the one after.

        A body has finished a moment when it asks for the next one.
        """
        if self._belt.over:
            return [], self._failure
        self._made.clear()
        self._belt.taken = 0
        self._belt.put(moments)
        await self._belt.rest.wait()
        finished = self._belt.taken - self._belt.busy
        return [self._made[at] if at < len(self._made) else [] for at in range(finished)], self._failure

    async def stop(self) -> None:
        """End the body, whatever it is doing."""
        self._belt.over = True
        with contextlib.suppress(TimeoutError):  # a body that goes on is cancelled with its loop
            await asyncio.wait_for(self._agent.stop(), STOPPING)

    def _took(self, made: Any) -> None:
        """Keep what the body yields, by the moment that it has: Faust's sink."""
        while len(self._made) < self._belt.taken:
            self._made.append([])
        self._made[self._belt.taken - 1].append(made)

    async def _guarded(self, stream: Any) -> AsyncIterator[Any]:
        """Run the body; nothing that it raises reaches Faust, which would acknowledge and go on."""
        try:
            async for made in self._body(stream):
                if not self._belt.busy:
                    why = "it yields while it has no moment: it makes something when it has been given one"
                    self._fail(Permanent(why))
                    break
                yield made
        except asyncio.CancelledError:
            self._fail(Permanent("its task was cancelled"))
        except BaseException as error:  # noqa: BLE001 - whatever a body raises is judged by the engine, sys.exit() too
            self._fail(error)
        else:
            self._fail(Permanent("it has returned; a body ends with its stream"))

    def _fail(self, error: BaseException) -> None:
        if not self._belt.over:
            self._failure = error
            self._belt.over = True
            self._belt.rest.set()
