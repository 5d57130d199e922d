"""A network between the bus and its target that lies, slows down and breaks: nothing is lost, doubled or dead."""

import functools
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network

import pytest
import trustme

from tests.trunkline import support
from tests.trunkline.faults.targets.load import Load
from tests.trunkline.faults.targets.wire import Wire
from tests.trunkline.support import QUICK, Running, Shelf, Stage, notes, say, wait_for
from trunkline import Bus, Deliver, Retry, Target, env
from trunkline.flow.declare import Breaker, Tls
from trunkline.http.guard import Address
from trunkline.http.transport import Transport

pytestmark = pytest.mark.faults(group="targets")

AUTHORITY = trustme.CA()
STRANGER = trustme.CA()
PAST = datetime(2020, 1, 1, tzinfo=UTC)
NAME = "localhost"


class Case(Load):
    """A bus whose target is behind a wire."""

    def __init__(self, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(stage)
        self.upstream = int(stage.target.url.rpartition(":")[2])
        self._monkeypatch = monkeypatch

    def make(self, port: int, *, tls: Tls | None = None, breaker: Breaker | None = None, retry: Retry = QUICK) -> None:
        url = f"{'http' if tls is None else 'https'}://{NAME}:{port}/{self.stage.prefix}"
        self._monkeypatch.setenv("SHELF_URL", url)
        target = Target("shelf", env("SHELF_URL"), tls=tls, breaker=breaker)
        self.bus = self.stage.make(
            Bus(self.stage.prefix, [Deliver(notes(self.stage.prefix, 3), to=Shelf(target), retry=retry)])
        )
        [self.flow] = self.bus.delivering


@pytest.fixture
def case(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Case:
    return Case(stage, monkeypatch)


@contextmanager
def wired(case: Case, *, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None) -> Iterator[Wire]:
    """Lay a wire to the target."""
    wire = Wire(case.upstream, host=host, port=port, tls=tls)
    try:
        yield wire
    finally:
        wire.close()


class Names:
    """A name service whose answer can be changed."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.asked = 0

    async def resolve(self, _: str) -> Sequence[Address]:
        self.asked += 1
        return [ip_address(self.address)]


def test_a_name_that_turns_to_loopback_between_check_and_connect(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    names = Names("127.0.0.2")
    monkeypatch.setattr(support, "LOOPBACK", (ip_network("127.0.0.2"),))
    monkeypatch.setattr("trunkline.http.pool.TRUST", 0.5)
    monkeypatch.setattr("trunkline.http.opening.Transport", functools.partial(Transport, resolve=names.resolve))
    with wired(case, host="127.0.0.2") as wire, wired(case, port=wire.port) as inside:
        case.make(wire.port)  # its name is one that the system itself knows as 127.0.0.1
        case.write()
        with case.stage.running(case.bus) as running:
            case.until_finished()
            asked, names.address = names.asked, "127.0.0.1"
            case.write()
            wait_for(lambda: halted(running), why=lambda: running.seen[-5:])
            assert names.asked > asked
            assert "at 127.0.0.1, which is this machine" in " ".join(running.details("halted"))
        assert not case.finished()
        names.address = "127.0.0.2"
        with case.stage.running(case.bus):
            case.until_finished()
        assert wire.connections > 0
        assert inside.connections == 0
    case.settle()


def halted(running: Running) -> bool:
    return bool(running.details("halted"))


def context_of(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)
    return context


WRONG = {
    "expired": AUTHORITY.issue_cert(NAME, not_before=PAST - timedelta(days=1), not_after=PAST),
    "of another host": AUTHORITY.issue_cert("other.example"),
    "of nobody": STRANGER.issue_cert(NAME),
}


# asyncio leaves the sockets of handshakes that have failed to the collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_certificate_until_it_is_renewed(case: Case, monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    monkeypatch.setenv("SHELF_CA", AUTHORITY.cert_pem.bytes().decode())
    with wired(case, tls=context_of(WRONG[wrong])) as wire:
        case.make(wire.port, tls=Tls(ca=env("SHELF_CA")))
        case.write()
        with case.stage.running(case.bus) as running:
            wait_for(lambda: running.counted(case.flow)["calling"] >= 100, why=lambda: running.seen[-5:])
            assert not case.stage.effects(), "nothing is sent to whom we do not trust"
            wire.show(context_of(AUTHORITY.issue_cert(NAME)))
            case.until_finished()
    case.settle()


def failed(running: Running) -> int:
    """Count the attempts that were no delivery."""
    return sum(one.what == "attempt" and bool(one.outcome) for one in running.seen)


def test_latency_that_climbs(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trunkline.http.transport.DEADLINE", 1.0)
    with wired(case) as wire:
        case.make(wire.port)
        case.write()
        with case.stage.running(case.bus) as running:
            case.until_finished()
            for wire.delay in (0.05, 0.2, 0.6):
                case.write(2)
                case.until_finished()
            before, wire.delay = failed(running), 1.5
            case.write(2)
            wait_for(lambda: failed(running) > before, why=lambda: running.seen[-5:])
            wire.delay = 0.0
            case.until_finished()
    case.settle()


def test_connections_that_are_reset(case: Case) -> None:
    with wired(case) as wire:
        case.make(wire.port)
        wire.cuts = 0.2
        case.write(20, 50)
        with case.stage.running(case.bus):
            case.until_finished()
        say(f"\n{case.events} events, {wire.bitten} connections reset")
        assert wire.bitten >= 100
    case.settle()


def test_connections_that_stall_within_an_answer_and_close_late(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trunkline.http.transport.DEADLINE", 0.5)
    with wired(case) as wire:
        case.make(wire.port)
        wire.stalls = 0.1
        case.write(4, 100)
        with case.stage.running(case.bus):
            wait_for(lambda: wire.bitten >= 20 or case.finished(), seconds=60)
            wire.stalls = 0.0
            case.until_finished()
        assert wire.bitten >= 20
    case.settle()
