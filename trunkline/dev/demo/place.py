"""Where a run takes place: a broker and topics with nothing of the bus on them, an empty folder, free ports."""

import contextlib
import shutil
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from kafka.admin import KafkaAdminClient

from trunkline.dev import broker
from trunkline.dev.broker import LocalKafka, Progress
from trunkline.dev.demo.witness import told
from trunkline.errors import Unavailable, UsageError
from trunkline.flow.declare import Bus, group_of, identity_of, schemas_of
from trunkline.kafka.cluster import Cluster
from trunkline.kafka.control import Control
from trunkline.kafka.topics import Create, names, plan, reading
from trunkline.settings import Settings

SETTLING = 40.0
"""Seconds for which offsets and counters may lag behind what has happened, and agents wait for what does not."""


@contextlib.contextmanager
def place(bus: Bus, settings: Settings, folder: Path, say: Progress) -> Iterator[tuple[Settings, Cluster]]:
    """Give settings and a broker with nothing of the bus on it, and stop it afterwards if it was down.

    What an earlier demo left is removed. Where a person's own records are, or a worker runs, nothing is touched: then
    broker and ledger are the run's own, in its folder.

    Raises:
        UsageError: the configured broker is not free, or Java or Maven is missing.
        Unavailable: the broker cannot be reached or started.
    """
    with contextlib.ExitStack() as stack:
        was_up = broker.running(settings) is not None
        if not was_up:
            stack.callback(broker.down, settings)
        found = broker.up(settings, progress=say)
        if taken := clear(bus, settings, cluster_at(settings, found)):
            if found.kind == "configured":
                raise UsageError(
                    f"{taken} at {found.bootstrap}. The demo counts every record: set TRUNKLINE_KAFKA__BOOTSTRAP to a "
                    "broker that nobody uses, or unset it."
                )
            say(f"{taken} at {found.bootstrap}, which is left alone: this demo has a broker of its own in {folder}.")
            stack.close()
            settings = settings.model_copy(update={"state": folder})
            local = LocalKafka(folder / "broker", progress=say)
            stack.callback(local.stop)
            found = local.start()
            clear(bus, settings, cluster_at(settings, found))
        if settings.state != folder and settings.ledger.path.exists():
            say(f"{settings.ledger.path} is no demo's and left alone: this demo has a ledger of its own in {folder}.")
        if settings.state == folder or settings.ledger.path.exists() or settings.ledger.url is not None:
            own = settings.ledger.model_copy(update={"path": folder / "ledger.db", "url": None})
            settings = settings.model_copy(update={"ledger": own})
        yield settings, cluster_at(settings, found)


def cluster_at(settings: Settings, found: broker.Running) -> Cluster:
    """Give the broker that was found, with what a configured one asks for."""
    return Cluster.of(settings.kafka) if found.kind == "configured" else Cluster(found.bootstrap)


def clear(bus: Bus, settings: Settings, cluster: Cluster) -> str:
    """Remove what an earlier demo left of the bus and mark the broker as a demo's; or say why it is not ours to do.

    The mark is a topic, so it goes wherever the records go.
    """
    mark = f"trunkline.{bus.identity}.demo"
    groups = [group_of(bus, identity_of(flow)) for flow in reading(bus).values()]
    with Control(cluster) as control:
        known = control.topics().keys()
        ours = names(bus) & known
        if any(control.members(group) for group in groups):
            return f"A worker runs the bus {bus.name}"
        if mark in known:
            remove([mark, *ours], groups, cluster)
            path = settings.ledger.path
            for file in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
                file.unlink(missing_ok=True)
        else:
            low, high = control.beginnings(ours), control.ends(ours)
            used = [slot.topic for slot in low if low[slot] < high[slot] and slot.topic != schemas_of(bus)]
            if used:
                return f"There are records on {used[0]} that are no demo's"
        control.apply([Create(mark, 1, settings.kafka.replication, {}, "the mark of a demo")])
    return ""


def remove(topics: Sequence[str], groups: Sequence[str], cluster: Cluster) -> None:
    """Delete groups and topics.

    Raises:
        Unavailable: a group is still there; its offsets would hide what comes next from it.
    """
    with told(cluster), contextlib.closing(KafkaAdminClient(**cluster.kafka_python())) as admin:
        left, until = dict.fromkeys(groups, ""), time.monotonic() + SETTLING
        while left:  # a broker that has just started is still loading them
            answers: dict[str, str] = admin.delete_groups(list(left))
            left = {group: said for group, said in answers.items() if said not in ("OK", "GroupIdNotFoundError")}
            if left and time.monotonic() > until:
                raise Unavailable(f"the groups of the last demo cannot be deleted: {left}.")
            time.sleep(0.2 if left else 0)
        admin.delete_topics(list(topics))


def create_topics(bus: Bus, settings: Settings, cluster: Cluster) -> int:
    """Create the topics of a bus; say how many."""
    with Control(cluster) as control:
        return len(control.apply(plan(bus, control.existing(names(bus)), settings.kafka)))


def fresh(folder: Path) -> None:
    """Empty a run's folder; a broker that a killed run left there is stopped first.

    Raises:
        UsageError: there are files in it that are no run's.
    """
    mark = folder / ".demo"
    if folder.exists() and not mark.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder} holds something else, and would be emptied. Take another folder: --out.")
    if (folder / "broker").exists():
        LocalKafka(folder / "broker").stop()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    mark.touch()


def free_port(host: str, wanted: int) -> int:
    """Give the wanted port when it is free, else one that is.

    Raises:
        Unavailable: the host is not this machine's.
    """
    for port in (wanted, 0):
        with contextlib.suppress(OSError), socket.create_server((host, port)) as probe:
            number: int = probe.getsockname()[1]
            return number
    raise Unavailable(f"no port of {host} can be taken. Set TRUNKLINE_GATEWAY__HOST to an address of this machine.")
