"""How late it is on a partition, and from where a body that begins anew has to read."""

from hypothesis import given
from hypothesis import strategies as some

from trunkline.engine.eventtime import GRAIN, SILENT, Note, Reach, note_of, time_of


def test_time_goes_on_with_the_records_and_never_back() -> None:
    reach = Reach(5, 5)
    assert reach.time(99_000) is None
    reach.read(5, 1_000)
    reach.read(7, 400)
    assert (reach.at, reach.time(99_000)) == (8, 1_000)


def test_a_topic_at_its_end_is_as_late_as_the_clock_once_it_is_silent() -> None:
    reach = Reach(0, 0)
    reach.read(0, 10_000)
    reach.ended(2, 20_000)
    assert (reach.at, reach.time(20_000 + SILENT - 1)) == (2, 10_000)
    assert reach.time(20_000 + SILENT) == 20_000
    reach.ended(2, 21_000)
    assert reach.time(25_000) == 25_000 - SILENT, "silent since it met its end first"
    reach.read(2, 30_000)
    assert reach.time(90_000) == 30_000


def test_a_topic_that_holds_nothing_holds_up_no_time() -> None:
    reach = Reach(0, 0)
    reach.ended(0, 20_000)
    assert reach.time(20_000 + SILENT - 1) is None
    assert reach.time(20_000 + SILENT) == 20_000


def test_a_record_from_the_future_does_not_take_time_with_it() -> None:
    """Everything that is awaited would be missed at once, and nothing any more until the clock had come as far."""
    reach = Reach(0, 0)
    reach.read(0, 10_000)
    reach.read(1, 3_600_000)
    assert reach.time(11_000) == 11_000
    reach.ended(2, 12_000)
    assert reach.time(12_000 + SILENT) == 12_000 + SILENT


def test_two_topics_are_as_late_as_the_slower_one() -> None:
    first, second = Reach(0, 0), Reach(0, 0)
    first.read(0, 5_000)
    assert time_of([first, second], 9_000) is None
    second.read(0, 3_000)
    assert time_of([first, second], 9_000) == 3_000


@given(some.lists(some.integers(0, 60_000), min_size=1, max_size=80), some.integers(0, 60_000))
def test_nothing_later_than_the_limit_is_left_out_when_a_body_begins_anew(times: list[int], limit: int) -> None:
    reach = Reach(0, 0)
    for offset, at in enumerate(times):
        reach.read(offset, at)
    since = reach.since(limit)
    assert all(at <= limit for at in times[:since])
    reach.again(resume=reach.at)
    assert (reach.at, reach.resume) == (since, len(times))


def test_what_is_old_is_forgotten() -> None:
    reach = Reach(0, 0)
    for offset in range(100):
        reach.read(offset, offset * 100)
    assert 50 - GRAIN // 100 <= reach.since(5_000) <= 51


def test_a_note_is_read_as_it_was_written_and_any_other_text_is_none() -> None:
    for note in (Note(3, None), Note(3, 1_700_000_000_000)):
        assert note_of(str(note), 9) == note
    for text in ("", "from=x", "time=4", "from=12 time=", "=", "from=99"):
        assert note_of(text, 9) == Note(9, None)
