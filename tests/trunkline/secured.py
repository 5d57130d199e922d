"""A broker that asks who we are: TLS with a login, TLS with a certificate, and what each may do (ACLs).

Witnesses come in by a third listener, in plain text, and may do everything.
"""

import json
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from kafka.admin import (
    ACL,
    ACLFilter,
    ACLOperation,
    ACLPermissionType,
    KafkaAdminClient,
    ResourcePattern,
    ResourcePatternFilter,
    ResourceType,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from kafka.admin import ACLResourcePatternType as PatternType

from tests.shared import free_port
from tests.trunkline.support import ROOT, wait_for
from trunkline.dev import broker
from trunkline.dev.broker import LocalKafka
from trunkline.kafka.cluster import Cluster

PAGE = ROOT / "docs" / "operating.md"
ROLES = ("worker", "gateway only", "operator", "upstream publisher")
PASSWORD = "correct-horse-battery"  # noqa: S105
PLAIN = "plain-horse-battery"

PROPERTIES = """
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,LOGIN:SASL_SSL,MUTUAL:SSL
inter.broker.listener.name=PLAINTEXT
listeners=PLAINTEXT://127.0.0.1:{broker},LOGIN://127.0.0.1:{login},MUTUAL://127.0.0.1:{mutual},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{broker},LOGIN://localhost:{login},MUTUAL://localhost:{mutual}
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
ssl.keystore.type=PEM
ssl.keystore.location=server.pem
ssl.truststore.type=PEM
ssl.truststore.location=ca.pem
listener.name.mutual.ssl.client.auth=required
listener.name.login.sasl.enabled.mechanisms=SCRAM-SHA-512,PLAIN
listener.name.login.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.login.plain.sasl.jaas.config={module} required user_plain="{plain}";
connection.failed.authentication.delay.ms=20
"""


@dataclass(frozen=True)
class Secured:
    """Where it listens, and whom its certificate comes from."""

    plain: str
    login: str
    mutual: str
    ca: str
    certificate: str
    """Of a client, with its key."""
    key: str

    def cluster(self, username: str = "bus", **other: Any) -> Cluster:
        """Give what somebody who may come in uses."""
        return Cluster(**{**self.settings(username), **other})

    def settings(self, username: str = "bus") -> dict[str, Any]:
        return {"bootstrap": self.login, "tls": True, "ca": self.ca, "username": username, "password": PASSWORD}

    @contextmanager
    def admin(self) -> Iterator[Any]:
        with closing(KafkaAdminClient(bootstrap_servers=self.plain)) as admin:
            yield admin

    def user(self, *names: str) -> None:
        """Let them log in; the broker knows them when this returns."""
        with self.admin() as admin:
            admin.alter_user_scram_credentials(
                [UserScramCredentialUpsertion(name, ScramMechanism.SCRAM_SHA_512, PASSWORD) for name in names]
            )
            wait_for(lambda: {*names} <= {*admin.describe_user_scram_credentials()})

    def allow(self, username: str, *rules: tuple[str, str, str]) -> None:
        """Let somebody do operations on resources: ("topic", "orders.*", "Read,Write"); it holds from now on."""
        with self.admin() as admin:
            wanted = list(acls(username, rules))
            admin.create_acls(wanted)
            wait_for(lambda: all(admin.describe_acls(only(one))[0] for one in wanted))

    def forbid(self, username: str, *rules: tuple[str, str, str]) -> None:
        """Take it back; it holds no more when this returns."""
        with self.admin() as admin:
            unwanted = [only(one) for one in acls(username, rules)]
            admin.delete_acls(unwanted)
            wait_for(lambda: not any(admin.describe_acls(one)[0] for one in unwanted))


def only(acl: ACL) -> ACLFilter:
    """Give what finds this rule and no other."""
    where = acl.resource_pattern
    pattern = ResourcePatternFilter(where.resource_type, where.resource_name, where.pattern_type)
    return ACLFilter(acl.principal, "*", acl.operation, acl.permission_type, pattern)


def acls(username: str, rules: Any) -> Iterator[ACL]:
    for kind, name, operations in rules:
        prefixed = name.endswith("*") and name != "*"
        how = PatternType.PREFIXED if prefixed else PatternType.LITERAL
        pattern = ResourcePattern(ResourceType[kind.upper()], name.rstrip("*") if prefixed else name, how)
        for operation in operations.split(","):
            wanted = ACLOperation["".join("_" + c if c.isupper() else c for c in operation).lstrip("_").upper()]
            yield ACL(f"User:{username}", "*", wanted, ACLPermissionType.ALLOW, pattern)


def roles(role: str, bus: str) -> list[tuple[str, str, str]]:
    """Give the rights of a role as docs/operating.md lists them for the bus `shop`."""
    rows = re.findall(rf"^\| {role} \| (.+?) \| `(.+?)` \| (.+?) \|$", PAGE.read_text(), re.MULTILINE)
    assert rows, role
    found = []
    for kind, name, rights in rows:
        found.append((kind.replace(" ", "_"), name.replace("shop", bus), rights.replace(" ", "")))
    return found


@contextmanager
def secured(folder: Path) -> Iterator[str]:
    """Start it; give what `Secured` has, as JSON."""
    authority = trustme.CA()
    server, client = authority.issue_cert("localhost"), authority.issue_cert("bus@example.com", common_name="bus")
    ca = authority.cert_pem.bytes().decode()
    (folder / "server.pem").write_text(pem(server))
    (folder / "ca.pem").write_text(ca)
    login, mutual = free_port(), free_port()
    plain = broker.properties

    def properties(own: int, controller: int) -> str:
        places: dict[str, Any] = {"broker": own, "login": login, "mutual": mutual, "controller": controller}
        places |= {"module": "org.apache.kafka.common.security.plain.PlainLoginModule", "plain": PLAIN}
        return plain(own, controller) + PROPERTIES.format(**places)

    kafka = LocalKafka(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(broker, "properties", properties)
        address = kafka.start().bootstrap
    try:
        chain = "".join(one.bytes().decode() for one in client.cert_chain_pems)
        key = client.private_key_pem.bytes().decode()
        made = Secured(address, f"localhost:{login}", f"localhost:{mutual}", ca, chain, key)
        yield json.dumps(made.__dict__)
    finally:
        kafka.stop()


def pem(issued: trustme.LeafCert) -> str:
    """Give a key and its certificates as Kafka reads them."""
    key = load_pem_private_key(issued.private_key_pem.bytes(), None)
    told = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return told + "".join(one.bytes().decode() for one in issued.cert_chain_pems)
