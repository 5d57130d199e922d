"""Who the target is, and who we are."""

import asyncio
import re
import ssl
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import ClassVar

import h2.config
import h2.connection
import h2.events
import pytest
import trustme

from tests.trunkline.http.served import LOOPBACK, Served, answer, left
from tests.trunkline.http.ways import Way, each_way
from trunkline import Secret, Target, env
from trunkline.engine.survey import certificates_of
from trunkline.errors import Retryable, Undeliverable, UsageError
from trunkline.flow.declare import Tls
from trunkline.http.certificates import ends, read
from trunkline.http.guard import Address
from trunkline.http.proofs import OPEN
from trunkline.http.transport import Transport
from trunkline.kafka.cluster import Cluster
from trunkline.requests import Request
from trunkline.responses import Response

NAME = "crm.example"
AUTHORITY = trustme.CA()
STRANGER = trustme.CA()
GOOD = AUTHORITY.issue_cert(NAME)
TLS = Tls(ca=env("CRM_CA"))
MUTUAL = Tls(ca=env("CRM_CA"), certificate=env("CRM_CERTIFICATE"), key=Secret("CRM_KEY"))


@pytest.fixture(autouse=True)
def _declared(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = AUTHORITY.issue_cert("us")
    monkeypatch.setenv("CRM_CA", AUTHORITY.cert_pem.bytes().decode())
    monkeypatch.setenv("CRM_CERTIFICATE", ours.cert_chain_pems[0].bytes().decode())
    monkeypatch.setenv("CRM_KEY", ours.private_key_pem.bytes().decode())


async def here(_: str) -> list[Address]:
    """Say that every name is this machine's."""
    return [ip_address("127.0.0.1")]


def shown(certificate: trustme.LeafCert) -> ssl.SSLContext:
    """Give what a server needs to show a certificate."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)
    return context


def call(context: ssl.SSLContext, way: Way, tls: Tls | None = TLS, *, name: str = NAME) -> tuple[Response, Served]:
    """Call a target that shows this."""
    served = Served(answer(200), tls=context, host=name)

    async def run() -> Response:
        async with (
            served,
            Transport(
                served.url, OPEN, guard=LOOPBACK, connections=1, tls=tls, deadline=10.0, resolve=here
            ) as transport,
        ):
            return await way(transport, Request.get("/"))

    return asyncio.run(run()), served


@each_way
def test_a_certificate_of_the_authority_is_trusted(way: Way) -> None:
    got, served = call(shown(GOOD), way)
    assert got.status == 200
    assert served.sent["host"] == f"{NAME}:{served.port}"


@each_way
def test_the_name_is_told_to_the_target_while_its_checked_address_is_called(way: Way) -> None:
    told: list[str | None] = []
    context = shown(GOOD)
    context.sni_callback = lambda _socket, name, _context: told.append(name)
    call(context, way)
    assert told == [NAME]


PAST = datetime(2020, 1, 1, tzinfo=UTC)
FUTURE = datetime(2090, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)


@each_way
@pytest.mark.parametrize(
    ("certificate", "told"),
    [
        (STRANGER.issue_cert(NAME), "UnknownIssuer"),
        (AUTHORITY.issue_cert("other.example"), 'certificate not valid for name "crm.example"'),
        (AUTHORITY.issue_cert("127.0.0.1"), 'certificate not valid for name "crm.example"'),
        (AUTHORITY.issue_cert(NAME, not_before=PAST - DAY, not_after=PAST), "certificate expired"),
        (AUTHORITY.issue_cert(NAME, not_before=FUTURE, not_after=FUTURE + DAY), "certificate not valid yet"),
    ],
    ids=["of a stranger", "of another name", "of the address", "expired", "of the future"],
)
def test_a_wrong_certificate_is_no_connection(certificate: trustme.LeafCert, told: str, way: Way) -> None:
    with pytest.raises(Retryable, match=f"no connection to the target: its certificate is not trusted: {told}"):
        call(shown(certificate), way)


@each_way
def test_a_certificate_of_nobodys_is_no_connection_without_an_authority_of_ours(way: Way) -> None:
    with pytest.raises(Retryable, match="not trusted: UnknownIssuer"):
        call(shown(GOOD), way, tls=None)


@each_way
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_tls_older_than_1_2_is_no_connection(way: Way) -> None:
    context = shown(GOOD)
    context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(Retryable):
        call(context, way)


@each_way
def test_tls_1_2_will_do(way: Way) -> None:
    context = shown(GOOD)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    assert call(context, way)[0].status == 200


@each_way
def test_we_show_who_we_are_where_that_is_declared(way: Way) -> None:
    context = shown(GOOD)
    context.verify_mode = ssl.CERT_REQUIRED
    AUTHORITY.configure_trust(context)
    assert call(context, way, MUTUAL)[0].status == 200
    with pytest.raises(Undeliverable):
        call(context, way, TLS)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("CRM_CA", "none", "CRM_CA holds no certificate"),
        ("CRM_CA", "", "CRM_CA holds no certificate"),
        ("CRM_CA", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", "CRM_CA holds no certificate"),
        ("CRM_KEY", "none", "CRM_CERTIFICATE and CRM_KEY are no certificate with its key"),
        ("CRM_CERTIFICATE", "none", "CRM_CERTIFICATE and CRM_KEY are no certificate with its key"),
    ],
)
def test_what_is_no_certificate_is_said_before_anything_is_called(
    name: str, value: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=told):
        read(MUTUAL)


def test_of_many_authorities_each_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    both = STRANGER.cert_pem.bytes() + b"\n# ours\n" + AUTHORITY.cert_pem.bytes()
    monkeypatch.setenv("CRM_CA", both.decode())
    assert len(read(TLS).authorities) == 2


class Two(asyncio.Protocol):
    """Answers each request of an HTTP/2 connection with 200 and its path."""

    connections: ClassVar[list[asyncio.Transport]] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        Two.connections.append(transport)
        self._transport = transport
        self._http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        self._http.initiate_connection()
        transport.write(self._http.data_to_send())

    def data_received(self, data: bytes) -> None:
        for event in self._http.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                path = dict(event.headers or ())[b":path"]
                self._http.send_headers(event.stream_id or 0, [(":status", "200")])
                self._http.send_data(event.stream_id or 0, path, end_stream=True)
        self._transport.write(self._http.data_to_send())


@each_way
def test_http_2_is_spoken_where_the_target_offers_it(way: Way) -> None:
    Two.connections.clear()
    context = shown(GOOD)
    context.set_alpn_protocols(["h2"])

    async def run() -> list[bytes]:
        server = await asyncio.get_running_loop().create_server(Two, "127.0.0.1", 0, ssl=context)
        url = f"https://{NAME}:{server.sockets[0].getsockname()[1]}/v1"
        async with server, Transport(url, OPEN, guard=LOOPBACK, connections=1, tls=TLS, resolve=here) as transport:
            await way(transport, Request.get("/first"))
            got = await asyncio.gather(*(way(transport, Request.get(f"/{number}")) for number in range(20)))
        for wire in Two.connections:
            wire.abort()
        await left(server)
        return [one.body for one in got]

    assert asyncio.run(run()) == [f"/v1/{number}".encode() for number in range(20)]
    assert len(Two.connections) == 1


SWITCHES = re.compile(
    r"danger_|accept_invalid|verify\s*=\s*False|CERT_NONE|check_hostname\s*=\s*False|_create_unverified"
)


def test_nothing_in_the_library_can_leave_a_certificate_unchecked() -> None:
    assert {one.name for one in fields(Tls)} == {"ca", "certificate", "key"}
    files = [*Path("trunkline").rglob("*.py"), *Path("consumers").rglob("*.py"), *Path("producers").rglob("*.py")]
    assert len(files) > 100
    assert [str(file) for file in files if SWITCHES.search(file.read_text())] == []


@each_way
def test_no_setting_of_the_environment_leaves_a_certificate_unchecked(
    way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PYTHONHTTPSVERIFY", "NODE_TLS_REJECT_UNAUTHORIZED", "CURL_INSECURE"):
        monkeypatch.setenv(name, "0")
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.setenv(name, "")
    with pytest.raises(Retryable, match="not trusted: UnknownIssuer"):
        call(shown(STRANGER.issue_cert(NAME)), way)


@pytest.mark.parametrize("year", [2031, 2049, 2050, 2999])
def test_when_a_certificate_ends_is_read_from_it(year: int) -> None:
    end = datetime(year, 2, 3, 4, 5, 6, tzinfo=UTC)
    issued = AUTHORITY.issue_cert("us", not_after=end)
    assert ends(issued.cert_chain_pems[0].bytes().decode()) == [end]
    authority = AUTHORITY.cert_pem.bytes().decode()
    chain = f"{issued.cert_chain_pems[0].bytes().decode()}\n{authority}"
    assert ends(chain) == [end, datetime(3000, 1, 1, tzinfo=UTC)]


def test_what_is_no_certificate_ends_at_no_time() -> None:
    assert ends("") == ends("-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----") == []


def test_what_a_worker_shows_and_trusts_is_told_by_its_setting() -> None:
    target = Target("crm", env("CRM_URL"), tls=MUTUAL)
    end = datetime(3000, 1, 1, tzinfo=UTC).timestamp()
    cluster = Cluster("kafka:9093", tls=True, ca=AUTHORITY.cert_pem.bytes().decode())
    told = certificates_of([target, Target("open", env("CRM_URL"))], cluster)
    assert told == dict.fromkeys(("TRUNKLINE_KAFKA__CA", "CRM_CERTIFICATE", "CRM_CA"), end)
