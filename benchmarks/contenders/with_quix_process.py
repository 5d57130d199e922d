"""Quix Streams, at least once or exactly once.

Usage: `with_quix_process.py exactly-once|at-least-once`. Its own join with a table would keep the rows in a store
behind a changelog; a dictionary is faster, so it gets one.
"""

import sys

from quixstreams import Application

from benchmarks.contenders.joining import BOOTSTRAP, GROUP, OUT, TOPIC, decode, encode, pieces, read_rows


def main() -> None:
    """Run until killed."""
    rows = read_rows()
    app = Application(
        BOOTSTRAP,
        consumer_group=GROUP,
        auto_offset_reset="earliest",
        processing_guarantee=sys.argv[1],
        loglevel="WARNING",
        producer_extra_config={"partitioner": "murmur2_random", "linger.ms": 5, "acks": "all"},
    )
    sales = app.topic(TOPIC, value_deserializer="bytes", key_deserializer="bytes")
    out = app.topic(OUT, value_serializer="bytes", key_serializer="bytes")
    frame = app.dataframe(sales).apply(lambda value: list(pieces(decode(value), rows)), expand=True)
    frame.apply(encode).to_topic(out)
    app.run()


if __name__ == "__main__":
    main()
