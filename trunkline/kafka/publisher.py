"""Publishing by an upstream service itself, without a worker's gateway: events onto a topic, rows into a table.

It sends with kafka-python, which runs wherever Python does. Its default partitioner is murmur2, as everybody's (I3).
"""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Self

from kafka import KafkaProducer
from kafka.errors import KafkaError, MessageSizeTooLargeError, TopicAuthorizationFailedError

from trunkline.errors import Permanent, Unavailable, UsageError
from trunkline.event import TIMES, Event, is_timely, to_headers
from trunkline.flow.declare import Bus, Table, Topic, schemas_of
from trunkline.flow.transform import key_of
from trunkline.kafka.cluster import Cluster, lacking
from trunkline.kafka.confluent import Confluent
from trunkline.kafka.control import said
from trunkline.kafka.events import LARGEST, Written
from trunkline.kafka.greeting import greet
from trunkline.kafka.registry import Format, Registry

AHEAD = 2_000
"""Records that are under way at most."""


class Publisher:
    """Publishes to one topic or table in the name of a service; a context manager, used from one thread.

    It outlives a broker that is away. A process that forks makes one in each of its children.
    """

    def __init__(
        self,
        cluster: Cluster | str,
        bus: Bus,
        to: Topic | Table,
        *,
        service: str,
        patience: float = 30.0,
        registry: str = "",
    ) -> None:
        """Connect and register the schema; a record that is not acknowledged after `patience` seconds has failed.

        A broker that asks for no login may be given as host:port[,host:port]. `registry` is the address of a
        Confluent-compatible registry, where the bus's workers use one.

        Raises:
            Unavailable: the broker does not answer or does not take us, or the registry's topic is missing.
            UsageError: an address is no host:port.
        """
        cluster = Cluster(cluster) if isinstance(cluster, str) else cluster
        self._to = to
        self._source = f"{bus.identity}/{service}"
        self._patience = patience
        self._cluster = cluster
        self._process = os.getpid()
        self._open = True
        greet(cluster)
        self._registry = Confluent(registry) if registry else Registry(cluster, schemas_of(bus))
        try:
            self._form = Format(self._registry, to.schema)
            self._producer: KafkaProducer | None = self._connected()
        except BaseException:
            self._registry.close()
            raise

    def _connected(self) -> KafkaProducer:
        try:
            return KafkaProducer(
                **self._cluster.kafka_python(),
                acks="all",
                enable_idempotence=True,
                linger_ms=5,
                batch_size=128 * 1024,
                max_request_size=LARGEST,
                max_block_ms=int(self._patience * 1000),
                delivery_timeout_ms=int(self._patience * 1000),
                request_timeout_ms=int(self._patience * 500),
            )
        except KafkaError as error:
            raise Unavailable(f"no broker answers at {self._cluster.bootstrap}: {said(error)}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if os.getpid() != self._process:
            return  # the connections are those of the process that made them
        self._open = False
        try:
            if self._producer is not None:
                self._producer.close(timeout=self._patience)
        except KafkaError:  # what nobody waited for was not acknowledged
            self._give_up()
        finally:
            self._registry.close()

    def _give_up(self) -> None:
        """Go on with another producer, for this one has missed a record.

        kafka-python 3.0 never sends to a partition again of which a record ran out of time while it was sent again.
        """
        producer, self._producer = self._producer, None
        if producer is not None:
            producer._sender.force_close()  # noqa: SLF001 - it would be closed when all is acknowledged, which is never
            with suppress(KafkaError):
                producer.close(timeout=1)

    def publish(self, events: Iterable[Event[Any]]) -> Iterator[Written]:
        """Publish events and yield the place of each, in order, once every in-sync replica has it.

        An event gives its id, time and data; the bus adds source, type and key. Nothing is sent that nobody asks for:
        iterate to the end. Up to 2,000 records are under way at once.

        Raises:
            Permanent: an event does not fit the schema, lacks the key or an id, is larger than the topic allows, or has
                no time of an event: one without an offset, before 1970 or more than a day ahead.
            Unavailable: a record was not acknowledged; those yielded before it were. Publish the rest again.
            UsageError: the publisher is closed, or was made by another process.
        """
        waiting: deque[Any] = deque()
        for event in events:
            waiting.append(self._send(event))
            if len(waiting) >= AHEAD:
                yield self._placed(waiting.popleft())
        while waiting:
            yield self._placed(waiting.popleft())

    def rows(self, rows: Iterable[Mapping[str, Any]], time: datetime) -> Iterator[Written]:
        """Publish rows of a table as they were at `time`, as `publish` does; a key and a time make a row's id."""
        version = time.isoformat()
        return self.publish(
            Event(id=f"{self._to.name}:{key_of(self._to, row)}:{version}", time=time, data=row) for row in rows
        )

    def _send(self, event: Event[Any]) -> Any:
        if not self._open:
            raise UsageError("this publisher is closed: publish within its `with`.")
        if os.getpid() != self._process:
            raise UsageError("this publisher is another process's: make one in each process, after the fork.")
        if not event.id:
            raise Permanent("an event needs an id")
        if not is_timely(event.time, datetime.now(UTC)):
            raise Permanent(f"event {event.id} has the time {event.time.isoformat()}: {TIMES}")
        key = key_of(self._to, event.data)
        stamped = Event(
            id=event.id,
            time=event.time,
            data=event.data,
            source=self._source,
            type=self._to.schema.event_type,
            key=key,
            traceparent=event.traceparent,
        )
        value = self._form.encode(event.data)
        self._producer = self._producer or self._connected()
        try:
            return self._producer.send(
                self._to.name, value, None if key is None else key.encode(), list(to_headers(stamped))
            )
        except KafkaError as error:
            raise self._failed(error) from None

    def _placed(self, future: Any) -> Written:
        """Wait for one record's own acknowledgement: a flush would hide which of them failed."""
        try:
            place = future.get(timeout=self._patience)
        except KafkaError as error:
            raise self._failed(error) from None
        return Written(place.partition, place.offset)

    def _failed(self, error: KafkaError) -> Permanent | Unavailable:
        failure = failure_of(error, self._to.name)
        if isinstance(failure, Unavailable):
            self._give_up()
        return failure


def failure_of(error: KafkaError, topic: str) -> Permanent | Unavailable:
    """Say what a failed delivery means."""
    if isinstance(error, MessageSizeTooLargeError):
        return Permanent(f"the record is larger than its topic allows: {said(error)}")
    if isinstance(error, TopicAuthorizationFailedError):
        return Unavailable(f"the broker did not acknowledge the record: {lacking('Write', f'topic {topic}')}")
    return Unavailable(f"the broker did not acknowledge the record: {said(error)}")
