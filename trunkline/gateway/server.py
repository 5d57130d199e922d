"""A worker with its port, until it is told to stop."""

import asyncio
import contextlib
import os
import resource
import signal
import socket
import threading
from collections.abc import Callable, Collection, Sequence

import structlog
import uvicorn

from trunkline.engine.spans import exporting
from trunkline.engine.survey import Survey
from trunkline.engine.watchdog import Watchdog
from trunkline.engine.worker import Worker
from trunkline.flow.declare import Bus
from trunkline.gateway.app import Condition, Door, build
from trunkline.gateway.ports import bind
from trunkline.gateway.protocol import Bounded
from trunkline.kafka.cluster import Cluster
from trunkline.observe import Every, Metrics, Observer
from trunkline.redact import redact
from trunkline.settings import Settings

REQUEST_SECONDS = 5.0
"""How long requests in progress are waited for when the worker drains."""
FILES = 8_192
"""Files and connections that a process may have open, where the machine lets it: many shells begin with 1,024."""
CLOSING_SECONDS = 4.0
"""What closing may take besides draining: with the default 25 s a process has ended after 29 s, whatever hangs."""
IDLE_SECONDS = 75
"""How long a sender's idle connection stays open: longer than load balancers (60 s) and HTTP clients (5 to 60 s) keep
theirs. Who closes first must be the sender: a request that meets our closing is lost without an answer (RFC 9112 §9.5).
"""


async def serve(
    bus: Bus,
    settings: Settings,
    cluster: Cluster,
    *,
    flows: Collection[str] = (),
    observe: Observer,
    ready: Callable[[str], None],
    ports: Sequence[socket.socket] = (),
) -> bool:
    """Run flows until SIGTERM, SIGINT or SIGHUP, then drain; say whether everything in flight had ended.

    The port answers from the beginning to the end, so that whoever asks hears why the worker is not ready; events are
    taken between. `ready` is called with the address of the first port when everything runs. `ports` are those of the
    supervisor, the common one and, where there are several processes, this one's own; without any it is taken here.
    A second SIGTERM or SIGINT, and one while nothing runs yet, ends the process at once.

    Raises:
        UsageError: a flow is unknown, a secret is not set, or the port is taken.
        Unavailable: broker, ledger or a table cannot be reached.
    """
    allow(FILES)
    metrics = Metrics()
    door = Door()
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, stop, number, stopping, door, settings.worker.drain_seconds)
    worker = Worker(bus, settings, cluster, observe=Every(metrics, observe), flows=flows)
    ports = ports or [bind(settings.gateway.host, settings.gateway.port)]
    chosen = list(flows) or [name for name, _ in bus.named()]

    def condition() -> Condition:
        stopped = {flow: redact(why) for flow, why in worker.stopped().items()}
        waiting = [heart.flow for heart in worker.hearts if not heart.joined and heart.flow not in stopped]
        return Condition(chosen, waiting, stopped, worker.silence, worker.unwritten)

    own = ports[-1].getsockname()[1] if len(ports) > 1 else None
    app = build(worker.publishers, worker.registry, metrics.registry, door, condition, own=own)
    server = Server(
        uvicorn.Config(
            app,
            log_config=None,
            log_level="error",
            access_log=False,
            lifespan="off",
            proxy_headers=False,
            timeout_keep_alive=IDLE_SECONDS,
            timeout_graceful_shutdown=1,
            http=Bounded,
        )
    )
    url = "http://{}:{}".format(*ports[0].getsockname()[:2])
    serving = loop.create_task(server.serve(sockets=list(ports)))
    try:
        with exporting(bus.name), Watchdog() as watchdog:
            async with worker:
                watchdog.watch(worker.hearts)
                async with Survey(bus, worker, settings, cluster, metrics):
                    door.state = "open"
                    ready(url)
                    await stopping.wait()
                    await door.emptied(REQUEST_SECONDS)
    finally:
        server.should_exit = True
        await serving
    return worker.drained


def allow(files: int) -> None:
    """Let this process have so many files open, or as many as the machine lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = files if hard == resource.RLIM_INFINITY else min(files, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


class Server(uvicorn.Server):
    """uvicorn without its own signal handling."""

    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]  # noqa: ANN201 - as uvicorn has it
        """Leave the signals to `serve`."""
        yield


def stop(number: signal.Signals, stopping: asyncio.Event, door: Door, drain_seconds: float) -> None:
    """Ask for the drain; when asked twice, or when it takes too long, end at once: what is not recorded comes again."""
    if stopping.is_set():
        if number is not signal.SIGHUP:
            os._exit(128 + number)
        return
    if door.state == "starting":
        os._exit(0)
    stopping.set()
    door.state = "draining"
    last = threading.Timer(drain_seconds + CLOSING_SECONDS, give_up, [drain_seconds + CLOSING_SECONDS])
    last.daemon = True
    last.start()


def give_up(seconds: float) -> None:
    """End a process that does not end by itself."""
    structlog.get_logger("trunkline").error("drain", why=f"not everything had ended {seconds:g} s after the signal")
    os._exit(1)
