"""What a fetched record takes in memory while it waits."""

from trunkline.engine.reader import slim
from trunkline.kafka.events import Record, Slot


def fetched(offset: int) -> Record:
    """Give a record as the client does, with headers of its own."""
    headers = [("ce_id", f"e{offset}"), ("ce_type", "sale"), ("content-type", "avro"), ("channel", "web")]
    pairs = tuple((f"{name}!"[:-1], value.encode()) for name, value in headers)
    return Record(Slot("sales", 0), offset, b"a", b"1", pairs, 7)


def test_records_share_the_headers_that_they_have_alike_and_stay_what_they_are() -> None:
    one, two = slim(fetched(1)), slim(fetched(2))
    assert (one, two) == (fetched(1), fetched(2))
    shared = [mine is theirs for mine, theirs in zip(one.headers, two.headers, strict=True)]
    assert shared == [False, True, True, False], "an id or a stranger's header would fill the memory of what is alike"
