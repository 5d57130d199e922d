"""Where Trunkline runs: about twenty settings, read from TRUNKLINE_* variables; everything else is in topology.py.

A nested setting is written with two underscores (TRUNKLINE_KAFKA__BOOTSTRAP). Any variable may be given as
NAME_FILE instead, naming a file that holds the value. A TRUNKLINE_ variable that means nothing is an error.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, SecretStr, ValidationError

from trunkline.errors import UsageError, meant
from trunkline.redact import keep_secret

PREFIX = "TRUNKLINE_"


Mechanism = Annotated[Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"], BeforeValidator(str.upper)]


class Kafka(BaseModel):
    """How to reach the broker."""

    bootstrap: str | None = Field(default=None, description="host:port[,host:port]; unset: the local broker")
    tls: bool = Field(default=False, description="whether the brokers speak TLS; their certificates are always checked")
    ca: str | None = Field(default=None, description="whose signature counts there, PEM; unset: whom the system trusts")
    certificate: str | None = Field(default=None, description="who we are, as PEM, where brokers ask for it (mTLS)")
    key: SecretStr | None = Field(default=None, description="its key, as PEM that is not encrypted")
    mechanism: Mechanism | None = Field(default=None, description="how `username` logs in (SASL); unset: SCRAM-SHA-512")
    username: str | None = Field(default=None, description="who logs in, where brokers ask for a login")
    password: SecretStr | None = Field(default=None, description="with which password")
    registry: SecretStr | None = Field(
        default=None, description="https://user:password@host of a Confluent-compatible schema registry; unset: our own"
    )
    replication: int = Field(default=1, ge=1, description="replication factor of the topics that `topics apply` makes")
    min_insync: int = Field(default=1, ge=1, description="min.insync.replicas of these topics")


class Ledger(BaseModel):
    """Where deliveries are recorded."""

    path: Path = Field(default=Path("var/ledger.db"), description="the SQLite file, shared by the workers of a machine")
    url: SecretStr | None = Field(
        default=None, description="postgresql://user:password@host/database instead, shared by many machines"
    )


class Gateway(BaseModel):
    """The one HTTP port of a worker: webhooks, schemas, health and metrics."""

    host: str = "127.0.0.1"
    port: int = Field(default=8701, ge=0, le=65535, description="0 takes a free port")


class Worker(BaseModel):
    """The processes of `trunkline run`: it starts them, and starts one again that ends by itself.

    All of them answer at the gateway's port. When they are several, each also has a port of its own, ten above the
    gateway's and counted up from there (8711, 8712 …): health and metrics are a process's own, and a request to the
    common port reaches any of them.
    """

    processes: int = Field(default=1, ge=1, le=64, description="how many share the flows and the gateway's port")
    slot: int = Field(default=0, ge=0, description="a number that no other process of the machine has; the first one's")
    drain_seconds: float = Field(default=25.0, gt=0, description="how long SIGTERM waits for calls in flight")


def networks(value: Any) -> Any:
    """Read networks that are written with commas between them."""
    return [ip_network(part.strip()) for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def written(value: Iterable[IPv4Network | IPv6Network]) -> str:
    """Write networks as `networks` reads them."""
    return ",".join(map(str, value))


Networks = Annotated[
    tuple[IPv4Network | IPv6Network, ...],
    BeforeValidator(networks),
    PlainSerializer(written, when_used="json"),
]


class Targets(BaseModel):
    """What the systems that the bus calls may be."""

    allow: Networks = Field(
        default=(), description="networks that are called although they are not public: 10.0.0.0/8,fd00::/8"
    )


class Settings(BaseModel):
    """Everything that differs between a laptop and production; `load` reads it from the environment."""

    model_config = ConfigDict(extra="forbid")

    kafka: Kafka = Kafka()
    ledger: Ledger = Ledger()
    gateway: Gateway = Gateway()
    targets: Targets = Targets()
    worker: Worker = Worker()
    state: Path = Field(
        default=Path("var"), description="a folder for what can be made again: rows of tables, the local broker"
    )


@dataclass(frozen=True, slots=True)
class Env:
    """A value that comes from the environment when the bus starts, not when the topology is imported."""

    name: str

    def read(self, environment: Mapping[str, str] = os.environ) -> str:
        """Return the value, from NAME or from the file that NAME_FILE names.

        Raises:
            UsageError: neither is set, or the file cannot be read.
        """
        if (value := environment.get(self.name)) is not None:
            return value
        if (path := environment.get(f"{self.name}_FILE")) is not None:
            try:
                return Path(path).read_text().rstrip("\n")
            except OSError as error:
                raise UsageError(f"{self.name}_FILE names {path}, which cannot be read: {error.strerror}") from None
        raise UsageError(f"{self.name} is not set. Set it, or {self.name}_FILE, or pass --env FILE (dev.env has one).")


@dataclass(frozen=True, slots=True)
class Secret(Env):
    """An environment value that never appears in a log, a topic, the ledger or an exception."""

    def read(self, environment: Mapping[str, str] = os.environ) -> str:
        """Return the value, as `Env` does, and keep it from everything that is said from now on."""
        value = Env.read(self, environment)
        keep_secret(value)
        return value


def filled(setting: Env) -> str:
    """Read a value that is something.

    Raises:
        UsageError: it is not set, or empty.
    """
    if not (value := setting.read()).strip():
        raise UsageError(f"{setting.name} is empty. Set {setting.name} again.")
    return value


def is_set(setting: Env, environment: Mapping[str, str] = os.environ) -> bool:
    """Say whether a setting has any value."""
    if setting.name not in environment and f"{setting.name}_FILE" not in environment:
        return False
    return bool(setting.read(environment).strip())


def env(name: str) -> Env:
    """Name an environment variable; it is read when the bus starts."""
    return Env(name)


def load(environment: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings.

    Raises:
        UsageError: an unknown TRUNKLINE_ variable (with a suggestion) or a value of the wrong kind, by its name.
    """
    known = set(names())
    given = [name for name in environment if name.startswith(PREFIX)]
    for name in given:
        base = name.removesuffix("_FILE")
        if base not in known:
            raise UsageError(f"{name} is no setting. {meant(base, known)}".rstrip())
    values: dict[str, Any] = {}
    for name in known:
        if name in environment or f"{name}_FILE" in environment:
            part, _, setting = name.removeprefix(PREFIX).lower().partition("__")
            value = Env(name).read(environment)
            values[part] = values.get(part, {}) | {setting: value} if setting else value
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = PREFIX + "__".join(str(part) for part in first["loc"]).upper()
        raise UsageError(f"{name} is {first['input']!r}: {first['msg'].lower()}.") from None


def names() -> Iterator[str]:
    """Yield the name of every variable that is a setting."""
    for field, info in Settings.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            for leaf in info.annotation.model_fields:
                yield f"{PREFIX}{field}__{leaf}".upper()
        else:
            yield f"{PREFIX}{field}".upper()
