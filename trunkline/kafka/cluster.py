"""Which brokers, as each of the two clients is told it; nothing else knows."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Cluster:
    """The brokers that a client calls first, host:port[,host:port]."""

    bootstrap: str

    def librdkafka(self) -> dict[str, Any]:
        """Give the configuration of a client of librdkafka."""
        return {"bootstrap.servers": self.bootstrap}

    def kafka_python(self) -> dict[str, Any]:
        """Give the keyword arguments of a client of kafka-python."""
        return {"bootstrap_servers": self.bootstrap}
