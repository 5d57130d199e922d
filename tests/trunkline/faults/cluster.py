"""Brokers of their own, one or three, that are killed, frozen and brought back one by one.

Each has two listeners: one for witnesses, and one that is advertised with a proxy's port, so that a worker that comes
through the proxy stays behind it.
"""

import base64
import os
import resource
import signal
import subprocess
import uuid
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from random import SystemRandom
from typing import Any, Self

from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError

from tests.trunkline.faults.proxy import Proxy
from tests.trunkline.support import wait_for
from trunkline.dev import broker
from trunkline.settings import Kafka


class Node:
    """One broker and controller; `proxy` stands before its second listener."""

    def __init__(self, number: int, folder: Path, ports: Sequence[int], disks: Sequence[str] = ("data",)) -> None:
        self.number = number
        self.disks = [folder / disk for disk in disks]
        self.port, self.behind, self.controller = ports
        self.proxy = Proxy(self.behind)
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.frozen = False
        folder.mkdir(parents=True)

    def format(self, cluster: str, voters: str, *, replicas: int) -> subprocess.Popen[bytes]:
        """Write the properties and begin to format the disk."""
        listeners = f"PLAINTEXT://127.0.0.1:{self.port},PROXIED://127.0.0.1:{{}}"
        properties = broker.PROPERTIES | {
            "node.id": str(self.number),
            "listeners": f"{listeners.format(self.behind)},CONTROLLER://127.0.0.1:{self.controller}",
            "advertised.listeners": listeners.format(self.proxy.port),
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT",
            "inter.broker.listener.name": "PLAINTEXT",
            "controller.quorum.voters": voters,
            "controller.quorum.election.timeout.ms": "1000",
            "controller.quorum.fetch.timeout.ms": "2000",
            "offsets.topic.replication.factor": str(replicas),
            "transaction.state.log.replication.factor": str(replicas),
            "transaction.state.log.min.isr": str(min(2, replicas)),
            "share.coordinator.state.topic.replication.factor": str(replicas),
            "unclean.leader.election.enable": "false",
            "log.dirs": ",".join(disk.name for disk in self.disks),
        }
        text = "".join(f"{name}={value}\n" for name, value in properties.items())
        (self._folder / "server.properties").write_text(text)
        tool = ["kafka.tools.StorageTool", "format", f"--cluster-id={cluster}", "--config=server.properties"]
        return self._java(*tool)

    def start(self) -> None:
        self._process = self._java("kafka.Kafka", "server.properties")

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._process = None

    def freeze(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)
        self.frozen = True

    def thaw(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)
        self.frozen = False

    def fill(self, size: int) -> None:
        """Let no file grow beyond so many bytes, as on a full disk: the broker gets an error for what it writes."""
        assert self._process is not None
        resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    @property
    def gone(self) -> bool:
        """Whether it has ended by itself."""
        return self._process is not None and self._process.poll() is not None

    @property
    def running(self) -> bool:
        return self._process is not None

    def _java(self, *arguments: str) -> "subprocess.Popen[bytes]":
        java = ["java", *broker.JVM, "-cp", f"{broker.jars()}/*", *arguments]
        with (self._folder / "log").open("ab") as log:
            return subprocess.Popen(java, cwd=self._folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


class Cluster:
    """One node, or three with three copies of everything, of which two must have what is acknowledged."""

    def __init__(self, folder: Path, nodes: int, disks: Sequence[str] = ("data",)) -> None:
        free = (port for port in SystemRandom().sample(broker.PORTS, len(broker.PORTS)) if broker._free(port))
        self.nodes = [Node(1 + n, folder / str(1 + n), [next(free) for _ in range(3)], disks) for n in range(nodes)]
        self.kafka = Kafka(replication=nodes, min_insync=min(2, nodes))

    @property
    def bootstrap(self) -> str:
        """Where witnesses come in."""
        return ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    @property
    def proxied(self) -> str:
        """Where workers come in that stay behind the proxies."""
        return ",".join(f"127.0.0.1:{node.proxy.port}" for node in self.nodes)

    def start(self) -> None:
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        voters = ",".join(f"{node.number}@127.0.0.1:{node.controller}" for node in self.nodes)
        for formatting in [node.format(cluster, voters, replicas=len(self.nodes)) for node in self.nodes]:
            assert formatting.wait() == 0, "a broker's disk could not be formatted"
        for node in self.nodes:
            node.start()
        self.wait()

    def wait(self) -> None:
        """Return when every node that should run is known to the others."""

        def complete() -> bool:
            running = [node for node in self.nodes if node.running]
            if not all(broker.answers(f"127.0.0.1:{node.port}") for node in running):
                return False
            with closing(KafkaAdminClient(bootstrap_servers=f"127.0.0.1:{running[0].port}")) as admin:
                return len(admin.describe_cluster()["brokers"]) >= len(running)

        wait_for(complete, seconds=90)

    def restore(self) -> None:
        """Let every node run again, with nothing in between."""
        for node in self.nodes:
            node.proxy.heal()
            if node.running:
                node.thaw()
            else:
                node.start()
        self.wait()

    def leader_of(self, topic: str, partition: int) -> Node | None:
        """Give the node that leads a partition; None while nobody says it."""
        found = self._partitions(topic)
        return next((self.nodes[one["leader_id"] - 1] for one in found if one["partition_index"] == partition), None)

    def in_sync(self, topic: str) -> bool:
        """Say whether every partition has all its copies."""
        found = self._partitions(topic)
        return bool(found) and all(len(one["isr_nodes"]) == len(self.nodes) for one in found)

    def without(self, node: Node) -> str:
        """Give the witnesses' way to the others."""
        return ",".join(f"127.0.0.1:{other.port}" for other in self.nodes if other is not node)

    def _partitions(self, topic: str) -> list[Any]:
        asked = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes if node.running and not node.frozen)
        # They may still name a frozen one, which is asked no longer than this.
        with (
            suppress(KafkaError),
            closing(KafkaAdminClient(bootstrap_servers=asked, request_timeout_ms=2_000)) as admin,
        ):
            [found] = admin.describe_topics([topic])
            return list(found["partitions"])
        return []

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for node in self.nodes:
            if node.running:
                node.kill()
            node.proxy.close()
