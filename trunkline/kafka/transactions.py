"""Transactions over librdkafka: what a batch writes and the offsets it read become visible together, or not at all."""

import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from trunkline.errors import Halt, TrunklineError, Unavailable
from trunkline.kafka.cluster import Cluster
from trunkline.kafka.events import BY_KEY, DROPPED, MISSING, PRODUCER, Membership, Slot, clock, dated, words

TRANSACTION_SECONDS = 10
ASKING_SECONDS = 2.0
REFUSALS = {
    KafkaError.MSG_SIZE_TOO_LARGE,
    KafkaError.INVALID_RECORD,
    KafkaError.INVALID_TIMESTAMP,
    KafkaError.INVALID_MSG,
}
"""Errors that are the fault of one record, or of one among those that were sent with it."""


class Write(NamedTuple):
    """A record to be written."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, Any]]
    """Each a name and bytes or None."""
    partition: int = BY_KEY


class Refused(TrunklineError):  # noqa: N818 - what happened to the records
    """The broker refused records for what they are, so the transaction did not happen.

    `which` has the reason of each that was refused by its place among the writes; it is empty unless they were written
    one by one.
    """

    def __init__(self, message: str, which: Mapping[int, str]) -> None:
        super().__init__(message)
        self.which = which


class Outdated(TrunklineError):  # noqa: N818 - what happened to the group
    """The group has changed since its member was asked: abort, and try again with what the member says then."""


class Transactions:
    """A transactional producer; one thread at a time.

    Its id is stable per slot of a machine, so that a restart ends what its predecessor left open (P1).
    """

    def __init__(self, cluster: Cluster, transactional_id: str, *, one_by_one: bool = False) -> None:
        """Take the id over: whoever had it is fenced. `one_by_one` is slow, and tells which records are refused.

        Raises:
            Unavailable: the broker does not answer.
        """
        self._failed: list[KafkaError] = []
        self._id = transactional_id
        self._topic = ""
        """Of the record that the broker refused last."""
        self._written: list[Sequence[Write]] = []
        """Since the transaction began."""
        self._which: dict[int, str] = {}
        """Of the records that were refused, the places among those written, and why."""
        self._asking = threading.Lock()
        """librdkafka answers one question about a transaction at a time, and refuses the other."""
        self._one_by_one = one_by_one
        self._producer = Producer(
            {
                **PRODUCER,
                **cluster.librdkafka(),
                "transactional.id": transactional_id,
                "transaction.timeout.ms": TRANSACTION_SECONDS * 1000,
                "message.timeout.ms": TRANSACTION_SECONDS * 1000,
                "socket.timeout.ms": TRANSACTION_SECONDS * 1000,
                "linger.ms": 100,  # never so long: what is written is flushed at once, and until then gathers
                # Back-to-back transactions wait for the last one's marks; the default back-off makes that 100 ms.
                # What adds a partition is tried again after 20 ms, whatever stands here: `engine.cadence` avoids that.
                "retry.backoff.ms": 5,
                "retry.backoff.max.ms": 20,
                # A refusal is of all that the broker was sent together.
                **({"batch.num.messages": 1} if one_by_one else {}),
                "delivery.report.only.error": not one_by_one,
                "on_delivery": self._reported,
            }
        )
        try:
            self._producer.init_transactions(TRANSACTION_SECONDS * 3)
        except KafkaException as error:
            why = words(error.args[0], "Write", "", transactional_id=transactional_id)
            raise Unavailable(f"no transactions for {transactional_id}: {why}") from None

    def begin(self) -> None:
        """Open a transaction.

        Raises:
            Halt: another process has taken the id.
            Unavailable: the last one is not over yet, or the producer cannot go on.
        """
        self._failed.clear()
        self._written.clear()
        self._which.clear()
        try:
            self._producer.begin_transaction()
        except KafkaException as error:
            raise self._refusal("no transaction can begin", error.args[0]) from None

    def write(self, writes: Sequence[Write]) -> None:
        """Write records into the open transaction; `flush` waits until the broker has them.

        Raises:
            Refused: it will not have one of them; abort.
            Halt: another process has taken the id.
            Unavailable: it does not have them; abort.
        """
        self._written.append(writes)
        produce = self._producer.produce
        for number, (topic, key, value, headers, partition) in enumerate(writes):
            while True:
                try:
                    if self._one_by_one:
                        produce(topic, value, key, partition, headers=headers, on_delivery=self._noting(number))
                    else:
                        produce(topic, value, key, partition, headers=headers)
                except BufferError:
                    self._producer.poll(0.1)
                except KafkaException as error:
                    self._producer.poll(0)
                    raise self._judged("a record of a transaction was refused", error.args[0]) from None
                else:
                    break

    def flush(self) -> None:
        """Wait until the broker has all that was written. Meanwhile another thread may offer offsets.

        Raises:
            Refused, Halt, Unavailable: as `write`.
        """
        until = clock() + TRANSACTION_SECONDS
        try:
            while (left := self._producer.flush(0.1)) and not self._failed and clock() < until:
                pass
        except KafkaException as error:  # the whole producer has failed, not a record
            raise self._refusal("the records of a transaction were not acknowledged", error.args[0]) from None
        if self._failed:
            raise self._judged("the records of a transaction were not acknowledged", self._failed[0])
        if left:
            why = self._missing() or "no answer"
            raise Unavailable(f"the records of a transaction were not acknowledged: {why}")

    def offer(
        self, offsets: Mapping[Slot, int], membership: Membership, note: Callable[[Slot], str] = lambda _: ""
    ) -> None:
        """Let the transaction commit the offsets that come after what was read.

        `note` says what lies beside the offset of a partition, for whoever goes on there (`Member`'s `begin`).

        It may be called while another thread waits in `flush`.

        Against librdkafka's documentation this may take for ever, when the group's coordinator goes away (its issue
        5456): call it in a thread that can be abandoned. Who begins again takes the id over, so what such a thread may
        still do is fenced.

        Raises:
            Outdated: the membership is; abort.
            Halt: another process has taken the id.
            Unavailable: the broker will not, or does not answer; abort.
        """
        try:
            with self._asking:
                places = dated(offsets, membership.ids, membership.epochs, note)
                self._producer.send_offsets_to_transaction(places, membership.group, TRANSACTION_SECONDS)
        except KafkaException as error:
            if error.args[0].code() in (KafkaError.ILLEGAL_GENERATION, KafkaError.UNKNOWN_MEMBER_ID):
                raise Outdated(f"the group has changed: {error.args[0].str()}") from None
            raise self._refusal("a transaction was not committed", error.args[0]) from None

    def commit(self) -> None:
        """Make records and offsets visible.

        Raises:
            Halt: another process has taken the id.
            Unavailable: it was not committed; abort.
        """
        try:
            self._producer.commit_transaction(TRANSACTION_SECONDS)
        except KafkaException as error:
            raise self._refusal("a transaction was not committed", error.args[0]) from None

    def abort(self) -> None:
        """Make the open transaction as if it had never been, as far as the broker can be reached."""
        until = clock() + TRANSACTION_SECONDS
        with contextlib.suppress(KafkaException):
            self._producer.abort_transaction(TRANSACTION_SECONDS)
            while len(self._producer) and clock() < until:  # what it has purged is reported now, not in the next one
                self._producer.poll(0.1)

    def _reported(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._failed.append(error)
            self._topic = message.topic() or ""

    def _noting(self, number: int) -> Any:
        def noted(error: KafkaError | None, message: Message) -> None:
            self._reported(error, message)
            if error is not None and error.code() in REFUSALS:
                self._which[number] = error.str()

        return noted

    def _judged(self, what: str, error: KafkaError) -> TrunklineError:
        """Say what it means that the broker did not take all that was written."""
        found = next((one for one in self._failed if one.code() in REFUSALS), None)
        if found is None:
            cause = self._cause(error)
            return self._refusal(what, cause, self._topic if cause is error else "")
        return Refused(f"{what}: {found.str()}", {**self._which})

    def _cause(self, error: KafkaError) -> KafkaError:
        """Give the reason why the client has dropped what it had not sent; it says so only when asked for more."""
        if error.code() in DROPPED and self._asking.acquire(timeout=TRANSACTION_SECONDS):
            try:
                self._producer.begin_transaction()
            except KafkaException as cause:
                found: KafkaError = cause.args[0]
                return found
            finally:
                self._asking.release()
        return error

    def _refusal(self, what: str, error: KafkaError, topic: str = "") -> Halt | Unavailable:
        """Say what a failure of a transaction means; without `topic` it may be any of those written to."""
        if error.code() == KafkaError._FENCED:  # noqa: SLF001
            return Halt("another process runs this flow in the same slot; give each its own TRUNKLINE_WORKER__SLOT")
        if error.code() in MISSING and (missing := self._missing()):
            return Unavailable(f"{what}: {missing}")
        topic = topic or " or ".join(self._topics())
        group = "of this flow"
        return Unavailable(f"{what}: {words(error, 'Write', topic, group=group, transactional_id=self._id)}")

    def _topics(self) -> list[str]:
        return sorted({write.topic for writes in self._written for write in writes})

    def _missing(self) -> str:
        """Say which of the topics written to are not there; the client does not, it waits for them."""
        gone = []
        with contextlib.suppress(KafkaException):
            for name in self._topics():
                error = self._producer.list_topics(name, ASKING_SECONDS).topics[name].error
                if error is not None and error.code() in MISSING:
                    gone.append(name)
        return f"missing topics: {', '.join(gone)}. Run `trunkline topics apply`" if gone else ""
