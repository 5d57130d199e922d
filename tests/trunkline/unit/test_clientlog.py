"""What librdkafka says many times is told once, with the number of those that were not."""

import json
import logging
import subprocess
import sys

import pytest

from trunkline.kafka.clientlog import LOG, QUIET, Once
from trunkline.kafka.cluster import COMMON


def test_a_broker_that_is_away_is_told_once_a_minute_and_not_by_every_client_many_times_a_second() -> None:
    now = [100.0]
    once = Once(lambda: now[0])

    def say(client: str, words: str = "Connect to 10.0.0.7:9092 failed: refused (after {} ms)") -> str | None:
        text = words.format(int(now[0]) % 10)
        record = logging.LogRecord("librdkafka", logging.ERROR, "", 0, "%s [%s] %s", ("FAIL", client, text), None)
        return record.getMessage() if once.filter(record) else None

    assert say("rdkafka#consumer-1") is not None
    for _ in range(2_000):
        now[0] += 0.02
        assert say("rdkafka#consumer-2") is None
    assert say("rdkafka#consumer-1", "Authentication failed") is not None, "another matter is told at once"
    now[0] += QUIET
    told = say("rdkafka#consumer-3")
    assert told is not None
    assert told.endswith("ms) (2000 more like it since the last one)")


def test_what_each_first_start_meets_is_told_only_when_it_lasts() -> None:
    now = [100.0]
    once = Once(lambda: now[0])
    words = "Failed to acquire idempotence PID from broker b:1/1: Broker: Coordinator load in progress: retrying"

    def say() -> bool:
        return once.filter(logging.LogRecord("librdkafka", logging.WARNING, "", 0, words, (), None))

    assert not say()
    now[0] += 1
    assert not say()
    now[0] += QUIET
    assert say()


def test_clients_log_through_it(caplog: pytest.LogCaptureFixture) -> None:
    assert COMMON["logger"] is LOG
    for number in range(50):
        LOG.error("%s [%s] %s", "FAIL", f"rdkafka#producer-{number}", "only this test says so")
    assert len(caplog.records) == 1


COLLECTOR = """
import logging
from trunkline.cli.worker import set_up_logging
set_up_logging()
exporter = logging.getLogger("opentelemetry.exporter.otlp.proto.http.trace_exporter")
for number in range(50):
    exporter.warning("Transient error %s, retrying in %.2fs.", "no connection", number / 7)
    exporter.error("Failed to export spans batch")
"""


def test_a_collector_that_is_away_is_told_once_a_minute_too() -> None:
    done = subprocess.run([sys.executable, "-c", COLLECTOR], capture_output=True, text=True, check=True)
    assert [json.loads(line)["level"] for line in done.stderr.splitlines()] == ["warning", "error"]
