"""One worker of `trunkline run`: its flows and its port, in a process that does not outlive its supervisor."""

import faulthandler
import gc
import logging
import os
import signal
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from functools import partial
from types import TracebackType
from typing import Annotated

import structlog
import typer
import uvloop

from trunkline import settings
from trunkline.cli.project import cluster_of, load_bus, looking, talk
from trunkline.cli.run import moment
from trunkline.errors import UsageError
from trunkline.flow.declare import Bus, sink_identity
from trunkline.gateway.server import serve
from trunkline.kafka import orders
from trunkline.kafka.clientlog import Once
from trunkline.kafka.cluster import Cluster
from trunkline.kafka.control import Control
from trunkline.kafka.events import Sender
from trunkline.kafka.orders import Passed
from trunkline.kafka.topics import control_of
from trunkline.ledger import identity, progress, reach
from trunkline.ledger.database import Connection
from trunkline.observe import NOBODY, Every, Log, Observer
from trunkline.operate.leaving import left
from trunkline.redact import redact_data
from trunkline.settings import Settings

SWITCH = 0.0005
"""Seconds for which a thread that computes may keep the loop from running: the default is ten times as long."""
COLLECT = (1_000_000, 10, 10)
"""When the interpreter looks for cycles: thousands of events wait at any time, and none of them is in one."""


def run_worker(
    ports: Annotated[str, typer.Argument(help="Numbers of the sockets that it inherits, with commas between.")],
    flows: Annotated[list[str] | None, typer.Argument()] = None,
    *,
    start: Annotated[str | None, typer.Option()] = None,
) -> None:
    """Run flows in this process for `trunkline run`, which started it; exits 0 when all in flight had ended, else 1."""
    sockets = [socket.socket(fileno=int(number)) for number in ports.split(",")]
    for one in sockets:
        one.set_inheritable(False)
    leave_with_supervisor()
    config = settings.load()
    ended = work(load_bus(), config, flows or [], start=start, ready=lambda _: say_running(), ports=sockets)
    sys.exit(0 if ended else 1)


def say_running() -> None:
    """Tell the supervisor that everything runs."""
    with suppress(BrokenPipeError):  # it has gone, and we know by now
        os.write(sys.stdin.fileno(), b"\n")


def leave_with_supervisor() -> None:
    """Drain when the supervisor has gone: its end of our standard input has gone with it, however it ended."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

    def wait() -> None:
        with suppress(ConnectionResetError):  # it had not read what we wrote
            os.read(sys.stdin.fileno(), 1)
        os.kill(os.getpid(), signal.SIGHUP)

    threading.Thread(target=wait, name="supervisor", daemon=True).start()


def work(
    bus: Bus,
    config: Settings,
    flows: list[str],
    *,
    start: str | None = None,
    observe: Observer = NOBODY,
    ready: Callable[[str], None] = lambda _: None,
    ports: Sequence[socket.socket] = (),
) -> bool:
    """Run flows in this process and say whether all had ended well; tests pass an observer of their own.

    Raises:
        UsageError: an unknown flow, a missing topic, secret or start, a port that is taken.
        Unavailable: broker, ledger or a table cannot be reached.
    """
    faulthandler.enable()
    set_up_logging()
    cluster = cluster_of(config)
    names = flows or [name for name, _ in bus.named()]
    with Control(cluster) as control, looking(config) as db:
        if db is not None:
            identity.belong(db, bus.identity, reach(config.ledger).name)  # another's sinks would seem to have left
            if gone := left(bus, control, db):
                raise UsageError(" ".join(map(str, gone)))
        begin = None if start is None else moment(start)
        control.start_offsets(bus, names, begin, partial(note, bus, cluster), partial(reached, bus, db))

    def say(url: str) -> None:
        own = f"; its own port http://{config.gateway.host}:{ports[-1].getsockname()[1]}" if len(ports) > 1 else ""
        talk.print(f"running {', '.join(names)}; port {url}; broker {cluster.bootstrap}{own}", markup=False)
        ready(url)

    settle()
    return uvloop.run(serve(bus, config, cluster, flows=flows, observe=Every(Log(), observe), ready=say, ports=ports))


def settle() -> None:
    """Set the interpreter for thousands of events that wait at a time, once everything is loaded."""
    sys.setswitchinterval(SWITCH)
    gc.freeze()
    gc.set_threshold(*COLLECT)


def note(bus: Bus, cluster: Cluster, gaps: Sequence[Passed]) -> None:
    """Keep on the control topic what flows never read: `status` counts it, and no rebuild takes it for delivered."""
    with closing(Sender(cluster)) as sender:
        orders.send(sender, control_of(bus), [change for gap in gaps for change in orders.passing(gap)])
    lost = Counter[str]()
    for gap in gaps:
        lost[gap.flow] += gap.end - gap.begin if gap.expired else 0
    for flow, records in (+lost).items():
        structlog.get_logger("trunkline").error("deleted unread", flow=flow, records=records)


def reached(bus: Bus, db: Connection | None, name: str) -> Mapping[tuple[str, int], int]:
    """Give where the ledger knows that a flow was."""
    flow = bus.delivering.get(name)
    return {} if db is None or flow is None else progress.read(db, sink_identity(flow.to))


def set_up_logging() -> None:
    """Log one JSON object a line on stderr, or coloured lines where a person looks on; others' words and bugs too.

    Every value goes through the redactor, and so does the text of an exception that nobody has caught.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        clean,
    ]
    last: structlog.typing.Processor = structlog.processors.JSONRenderer()
    if sys.stderr.isatty():
        last = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(
        processors=[*shared, last],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    form = structlog.stdlib.ProcessorFormatter(
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, last], foreign_pre_chain=shared
    )
    for name in ("librdkafka", "asyncio", "uvicorn.error", "opentelemetry", "faust", "mode"):
        handler = logging.StreamHandler()
        handler.setFormatter(form)
        if name == "opentelemetry":  # four lines for every batch that a collector does not take
            handler.addFilter(Once())
        logging.getLogger(name).addHandler(handler)
    sys.excepthook = tell
    threading.excepthook = lambda caught: tell(caught.exc_type, caught.exc_value, caught.exc_traceback)


def clean(_logger: object, _method: str, said: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Redact what is about to be logged."""
    return {name: redact_data(value, name) for name, value in said.items()}


def tell(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    """Log an exception that nobody has caught."""
    structlog.get_logger("trunkline").critical("bug in Trunkline", exc_info=(kind, error, trace))
