"""FastStream on aiokafka: a handler of batches that publishes batches, at least once."""

import uvloop
from faststream import AckPolicy, FastStream
from faststream.kafka import KafkaBroker, KafkaMessage

from benchmarks.contenders.joining import BOOTSTRAP, GROUP, OUT, TOPIC, made_of, read_rows

ROWS = read_rows()
broker = KafkaBroker(BOOTSTRAP, logger=None, acks="all", linger_ms=5)


async def as_bytes(message: KafkaMessage) -> bytes:
    """Leave the decoding to the handler."""
    return message.body


@broker.subscriber(
    TOPIC,
    group_id=GROUP,
    auto_offset_reset="earliest",
    batch=True,
    max_records=2_000,
    ack_policy=AckPolicy.NACK_ON_ERROR,
    decoder=as_bytes,
)
async def price(bodies: list[bytes]) -> None:
    """Route one batch."""
    waiting = []
    for body in bodies:
        for key, made in made_of(body, ROWS):
            waiting.append(await broker.publish(made, OUT, key=key, no_confirm=True))
    for future in waiting:
        await future


if __name__ == "__main__":
    uvloop.run(FastStream(broker, logger=None).run())
