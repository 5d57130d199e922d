"""Faust: an agent over the stream of events, at least once.

Its own table would be filled from a changelog of its own form; a dictionary is faster, so it gets one.
"""

import os

import faust

from benchmarks.contenders.joining import BOOTSTRAP, GROUP, OUT, TOPIC, made_of, read_rows

ROWS = read_rows()
app = faust.App(
    GROUP,
    broker=f"kafka://{BOOTSTRAP}",
    store="memory://",
    datadir=os.environ["STATE"],
    topic_disable_leader=True,
    topic_allow_declare=False,
    consumer_auto_offset_reset="earliest",
    stream_buffer_maxsize=16_384,
    producer_acks=-1,
    producer_linger=0.005,
    broker_commit_interval=1.0,
    web_enabled=False,
    value_serializer="raw",
    key_serializer="raw",
)
sales = app.topic(TOPIC, value_type=bytes, key_type=bytes)
out = app.topic(OUT, value_type=bytes, key_type=bytes)


@app.agent(sales)
async def price(stream: faust.StreamT[bytes]) -> None:
    """Route the stream."""
    async for value in stream:
        for key, made in made_of(value, ROWS):
            await out.send(key=key, value=made)


if __name__ == "__main__":
    app.main()
