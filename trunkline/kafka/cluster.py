"""Which brokers, and how to prove to them who we are, as each of the two clients is told it; nothing else knows.

Certificates are texts (PEM), not files: each client reads them the same way, and settings may come from anywhere. The
broker's own is always checked, and so is the name in it; nothing switches that off.
"""

import ssl
import tempfile
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from trunkline.errors import UsageError
from trunkline.kafka.clientlog import LOG
from trunkline.redact import keep_secret
from trunkline.settings import Kafka

COMMON: dict[str, Any] = {
    "logger": LOG,
    "log_level": 4,
    "broker.address.family": "v4",
    "topic.metadata.refresh.interval.ms": 60_000,  # in which whoever runs notices that a topic has more partitions
}
"""What every client of librdkafka that lives on is told, whichever the brokers are."""
READER = "trunkline-reader"
"""The group of all who read without one: librdkafka wants a name, and asks the brokers who coordinates it."""
READING: dict[str, Any] = {
    **COMMON,
    "group.id": READER,
    "enable.auto.commit": False,
    "auto.offset.reset": "earliest",
    "isolation.level": "read_committed",
    "enable.partition.eof": True,
}
"""How they read: what is committed, from the beginning where nothing else is said, and each end is told."""


def setting(name: str) -> str:
    """Give the variable that sets a part of a cluster."""
    return f"TRUNKLINE_KAFKA__{name.upper()}"


@dataclass(frozen=True)
class Cluster:
    """The brokers that a client calls first, host:port[,host:port], and what they ask for.

    `ca` are those whose signature under a broker's certificate counts, "" for whoever the system trusts; `certificate`
    with its `key` shows who we are (mTLS), and so does `username` with `password` (SASL).
    """

    bootstrap: str
    tls: bool = False
    ca: str = field(default="", repr=False)
    certificate: str = field(default="", repr=False)
    key: str = field(default="", repr=False)
    mechanism: str = ""
    username: str = ""
    password: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        """Refuse what contradicts itself, and keep what is secret from everything that is said.

        Raises:
            UsageError: a setting is missing, is without effect, or holds no certificate.
        """
        for secret in (self.key, self.password):
            keep_secret(secret)
        for name in ("ca", "certificate", "key"):
            if getattr(self, name) and not self.tls:
                raise UsageError(f"{setting(name)} is set and {setting('tls')} is not true. Set both, or none.")
        for name, other in (("certificate", "key"), ("username", "password")):
            for here, missing in ((name, other), (other, name)):
                if getattr(self, here) and not getattr(self, missing):
                    raise UsageError(f"{setting(here)} is set and {setting(missing)} is not. Set both, or none.")
        if self.mechanism and not self.username:
            raise UsageError(f"{setting('mechanism')} is set and {setting('username')} is not: nobody would log in.")
        if self.sasl == "PLAIN" and not self.tls:
            raise UsageError(
                f"{setting('mechanism')} is PLAIN and {setting('tls')} is not true: the password would be sent for "
                "everybody to read. Set it, or another mechanism."
            )
        _ = self.context

    @classmethod
    def of(cls, kafka: Kafka) -> Self:
        """Take the configured cluster from the settings.

        Raises:
            UsageError: they contradict each other.
        """
        return cls(
            kafka.bootstrap or "",
            tls=kafka.tls,
            ca=kafka.ca or "",
            certificate=kafka.certificate or "",
            key=kafka.key.get_secret_value() if kafka.key else "",
            mechanism=kafka.mechanism or "",
            username=kafka.username or "",
            password=kafka.password.get_secret_value() if kafka.password else "",
        )

    @property
    def sasl(self) -> str:
        """The mechanism of the login; empty for none."""
        return (self.mechanism or "SCRAM-SHA-512") if self.username else ""

    @property
    def protocol(self) -> str:
        """Kafka's name for what is spoken."""
        return f"{'SASL_' if self.sasl else ''}{'SSL' if self.tls else 'PLAINTEXT'}"

    def librdkafka(self) -> dict[str, Any]:
        """Give the configuration of a client of librdkafka."""
        wanted = {
            "bootstrap.servers": self.bootstrap,
            "security.protocol": self.protocol,
            "enable.ssl.certificate.verification": self.tls,
            "ssl.endpoint.identification.algorithm": "https" if self.tls else "",
            "ssl.ca.pem": self.ca,
            "ssl.certificate.pem": self.certificate,
            "ssl.key.pem": self.key,
            "sasl.mechanism": self.sasl,
            "sasl.username": self.username,
            "sasl.password": self.password,
        }
        return {name: value for name, value in wanted.items() if value}

    def kafka_python(self) -> dict[str, Any]:
        """Give the keyword arguments of a client of kafka-python."""
        return {
            "bootstrap_servers": self.bootstrap,
            "security_protocol": self.protocol,
            "ssl_context": self.context,
            "sasl_mechanism": self.sasl or None,
            "sasl_plain_username": self.username or None,
            "sasl_plain_password": self.password or None,
        }

    @cached_property
    def context(self) -> ssl.SSLContext | None:
        """What a TLS connection of Python's own is made with; None without TLS.

        Raises:
            UsageError: what should be a certificate or its key is none.
        """
        if not self.tls:
            return None
        try:
            context = ssl.create_default_context(cadata=self.ca or None)
        except (ssl.SSLError, ValueError, TypeError):
            raise UsageError(f"{setting('ca')} holds no certificate. {FILES.format(setting('ca'))}") from None
        if self.certificate:
            with tempfile.TemporaryDirectory() as folder:  # Python reads it from a file only
                file = Path(folder) / "identity.pem"
                file.touch(0o600)
                file.write_text(f"{self.certificate}\n{self.key}\n")
                try:
                    context.load_cert_chain(file, password="")  # an encrypted one would be asked for at the terminal
                except (ssl.SSLError, OSError):
                    told = f"{setting('certificate')} and {setting('key')} are no certificate with its unencrypted key"
                    raise UsageError(f"{told}. {FILES.format(setting('key'))}") from None
        return context


def lacking(right: str, on: str) -> str:
    """Say which right we have not been given; `on` is a kind of resource and a name."""
    return f"the ACL {right} on the {on} is missing"


FILES = "Set it to PEM, or {}_FILE to the name of a file that holds it."
