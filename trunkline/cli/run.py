"""`trunkline run`: start flows and keep them running until SIGTERM."""

import logging
import sys
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Literal

import structlog
import typer
import uvloop

from trunkline import settings
from trunkline.cli.project import bootstrap, load_bus, talk
from trunkline.errors import UsageError
from trunkline.flow.declare import Bus
from trunkline.gateway.server import serve
from trunkline.kafka.control import Control
from trunkline.observe import Observer, every, log
from trunkline.settings import Settings


def run(
    flows: Annotated[list[str] | None, typer.Argument(help="Names of flows; all when none is named.")] = None,
    start: Annotated[
        str | None, typer.Option(help="Where a flow begins that has read nothing yet: earliest, latest or a time.")
    ] = None,
) -> None:
    """Run flows: receive, process, deliver, until SIGTERM; then finish what is in flight."""
    sys.exit(0 if work(load_bus(), settings.load(), flows or [], start=start) else 1)


def work(
    bus: Bus,
    config: Settings,
    flows: list[str],
    *,
    start: str | None = None,
    observe: Observer = lambda _: None,
    ready: Callable[[str], None] = lambda _: None,
) -> bool:
    """Run flows in this process and say whether all had ended well; tests pass an observer of their own.

    Raises:
        UsageError: an unknown flow, a missing topic, secret or start, a port that is taken.
        Unavailable: broker, ledger or a table cannot be reached.
    """
    set_up_logging()
    address = bootstrap(config)
    names = flows or [name for name, _ in bus.named()]
    with Control(address) as control:
        control.start_offsets(bus, names, None if start is None else moment(start))

    def say(url: str) -> None:
        talk.print(f"running {', '.join(names)}; port {url}; broker {address}", markup=False)
        ready(url)

    return uvloop.run(serve(bus, config, address, flows=flows, observe=every(log, observe), ready=say))


def moment(text: str) -> Literal["earliest", "latest"] | datetime:
    """Read where to begin.

    Raises:
        UsageError: it is neither a word we know nor an RFC 3339 time with its offset.
    """
    if text == "earliest":
        return "earliest"
    if text == "latest":
        return "latest"
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"--start {text}: say earliest, latest, or a time such as 2026-01-31T08:00:00Z.") from None
    if time.tzinfo is None:
        raise UsageError(f"--start {text}: add the time's offset, such as {text}Z.")
    return time


def set_up_logging() -> None:
    """Log one JSON object a line on stderr, or coloured lines where a person looks on; librdkafka's words too."""
    shared: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last = structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[*shared, last],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, last], foreign_pre_chain=shared
        )
    )
    logging.getLogger("librdkafka").addHandler(handler)
