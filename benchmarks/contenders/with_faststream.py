"""FastStream on aiokafka: acknowledged after the call, so concurrent between partitions and in order in each.

With CONCURRENCY above the number of partitions it acknowledges first instead, which is the only way FastStream has to
more calls at once: without any order, and what is in flight when it is killed is lost.
"""

import aiohttp
import uvloop
from faststream import AckPolicy, FastStream
from faststream.kafka import KafkaBroker, KafkaMessage

from benchmarks.contenders.wire import BOOTSTRAP, CONCURRENCY, EVENTS_URL, GROUP, TOPIC, body_of

PARTITIONS = 12

broker = KafkaBroker(BOOTSTRAP, logger=None)
client: aiohttp.ClientSession


async def as_bytes(message: KafkaMessage) -> bytes:
    """Leave the decoding to the handler."""
    return message.body


@broker.subscriber(
    TOPIC,
    group_id=GROUP,
    auto_offset_reset="earliest",
    max_workers=CONCURRENCY,
    ack_policy=AckPolicy.ACK_FIRST if CONCURRENCY > PARTITIONS else AckPolicy.NACK_ON_ERROR,
    decoder=as_bytes,
)
async def post(body: bytes) -> None:
    """Deliver one event."""
    headers = {"Content-Type": "application/json"}
    async with client.post(EVENTS_URL, data=body_of(body), headers=headers) as answer:
        answer.raise_for_status()
        await answer.read()


async def main() -> None:
    """Run until killed."""
    global client
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CONCURRENCY)) as client:
        await FastStream(broker, logger=None).run()


if __name__ == "__main__":
    uvloop.run(main())
