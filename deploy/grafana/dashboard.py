#!/usr/bin/env python3
"""Writes the dashboard: `python deploy/grafana/dashboard.py > deploy/grafana/dashboards/trunkline.json`.

Five rows, one for each question of whoever looks at it: fresh? delivering? failing? flowing? targets well?
"""

import json
import sys
from typing import Any

FLOW = 'flow=~"$flow"'
SOURCE = 'source=~"$source"'
TARGET = 'target=~"$target"'
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
OLD = "$__rate_interval"

Panel = tuple[str, str, str, str, str]
"""Title, what it means, unit, what a line is called, the query. A title that ends with `!` is one number."""


def quantile(share: float, metric: str, by: str, where: str) -> str:
    """Ask for a quantile of a histogram."""
    return f"histogram_quantile({share}, sum by (le, {by}) (rate({metric}_bucket{{{where}}}[{OLD}])))"


def rate(metric: str, by: str, where: str) -> str:
    """Ask for a rate."""
    return f"sum by ({by}) (rate({metric}{{{where}}}[{OLD}]))"


ROWS: dict[str, list[Panel]] = {
    "Fresh?": [
        (
            "Behind, worst flow !",
            "Age of the oldest event that a flow has not finished, over all partitions.",
            "s",
            "",
            f"max(trunkline_flow_lag_seconds{{{FLOW}}})",
        ),
        (
            "Event age, p99",
            "From when an event happened (ce_time) to when its delivery was recorded; one in a hundred is older.",
            "s",
            "{{flow}}",
            quantile(0.99, "trunkline_event_age_seconds", "flow", FLOW),
        ),
        (
            "Seconds behind",
            "Age of the oldest unfinished event of each flow. It grows when a flow stands still or a target is slow.",
            "s",
            "{{flow}}",
            f"max by (flow) (trunkline_flow_lag_seconds{{{FLOW}}})",
        ),
        (
            "Since the last progress",
            "Seconds since a flow finished an event or had none left; with records waiting it is stalled.",
            "s",
            "{{flow}} at {{instance}}",
            f"time() - trunkline_flow_progress_timestamp_seconds{{{FLOW}}}",
        ),
    ],
    "Delivering?": [
        (
            "Calls that deliver !",
            "Share of the calls to targets that delivered; those that failed are made again.",
            "percentunit",
            "",
            (
                f'sum(rate(trunkline_delivery_attempts_total{{outcome="delivered",{FLOW}}}[{OLD}])) / '
                f"sum(rate(trunkline_delivery_attempts_total{{{FLOW}}}[{OLD}]))"
            ),
        ),
        (
            "Within a minute",
            "Share of the events that were delivered within a minute of happening; the objective is 99 %.",
            "percentunit",
            "{{flow}}",
            (
                f'sum by (flow) (rate(trunkline_event_age_seconds_bucket{{le="60.0",{FLOW}}}[1h])) / '
                f"sum by (flow) (rate(trunkline_event_age_seconds_count{{{FLOW}}}[1h]))"
            ),
        ),
        (
            "Events by outcome",
            "What became of the events of sinks: delivered, dead, parked, ambiguous, superseded.",
            "cps",
            "{{sink}} {{outcome}}",
            rate("trunkline_sink_events_total", "sink, outcome", f'outcome!="read",{FLOW}'),
        ),
        (
            "Held by the workers",
            "Events in memory by how far they are: queued behind their key, calling, waiting for another try …",
            "short",
            "{{flow}} {{stage}}",
            f"sum by (flow, stage) (trunkline_flow_deliveries{{{FLOW}}})",
        ),
        (
            "Workers",
            "Live workers that run each flow; 0 means that nobody does.",
            "short",
            "{{flow}}",
            f"max by (flow) (trunkline_flow_workers{{{FLOW}}})",
        ),
    ],
    "Failing?": [
        (
            "Open dead letters !",
            "Dead letters that wait for a person: `trunkline dlq ls`.",
            "short",
            "",
            f"sum(max by (flow) (trunkline_deadletter_open{{{FLOW}}}))",
        ),
        (
            "New dead letters",
            "Dead letters written in a minute, by class.",
            "short",
            "{{flow}} {{reason}}",
            f"60 * {rate('trunkline_deadletter_events_total', 'flow, reason', FLOW)}",
        ),
        (
            "Oldest dead letter",
            "Age of the oldest open dead letter as a share of the time for which it is kept; at 1 it is gone.",
            "percentunit",
            "{{flow}}",
            (
                f"(time() - min by (flow) (trunkline_deadletter_oldest_timestamp_seconds{{{FLOW}}})) / "
                f"max by (flow) (trunkline_deadletter_retention_seconds{{{FLOW}}})"
            ),
        ),
        (
            "Halted or paused",
            "1 while a flow has halted by itself, 2 while it is paused by order.",
            "short",
            "{{flow}}",
            f"max by (flow) (2 * trunkline_flow_paused{{{FLOW}}} > 0 or trunkline_flow_halted{{{FLOW}}})",
        ),
        (
            "Lost, or nearly",
            "Records deleted before they were read, and events of which nobody knows any more. Always 0, or act.",
            "short",
            "{{flow}}",
            (
                f"max by (flow) (trunkline_flow_expired_records{{{FLOW}}}) + "
                f"max by (flow) (abs(trunkline_flow_accounting_gap{{{FLOW}}}))"
            ),
        ),
        (
            "Replays",
            "What replays brought to an end, by outcome.",
            "cps",
            "{{flow}} {{outcome}}",
            rate("trunkline_replay_events_total", "flow, outcome", FLOW),
        ),
        (
            "Broker or ledger away",
            "For how long no broker has acknowledged anything, or the ledger has taken nothing. 0, or posts wait.",
            "s",
            "{{instance}}",
            (
                "max by (instance) (trunkline_broker_silence_seconds) "
                "+ on (instance) max by (instance) (trunkline_ledger_failing_seconds)"
            ),
        ),
        (
            "Partitions held up by a key",
            "Partitions that are not read because one key that fails fills them up; `trunkline status` names the key.",
            "short",
            "{{flow}}",
            f"max by (flow) (trunkline_flow_full_partitions{{{FLOW}}})",
        ),
        (
            "Blocker",
            "The offset of the oldest unfinished record of a partition. Nothing behind it is committed.",
            "short",
            "{{topic}} {{partition}}",
            f"max by (topic, partition) (trunkline_flow_blocker_offset{{{FLOW}}})",
        ),
    ],
    "Flowing?": [
        (
            "In !",
            "Events published by sources, per second.",
            "cps",
            "",
            f'sum(rate(trunkline_source_events_total{{outcome="published",{SOURCE}}}[{OLD}]))',
        ),
        (
            "Sources",
            "What became of posted events: published, rejected, seen before.",
            "cps",
            "{{source}} {{outcome}}",
            rate("trunkline_source_events_total", "source, outcome", f'outcome!="received",{SOURCE}'),
        ),
        (
            "Silent for",
            "Seconds since a source last published an event.",
            "s",
            "{{source}}",
            f"time() - max by (source) (trunkline_source_last_event_timestamp_seconds{{{SOURCE}}})",
        ),
        (
            "Processed",
            "Input events of process flows: routed, filtered, unrouted, dead.",
            "cps",
            "{{flow}} {{outcome}}",
            rate("trunkline_process_events_total", "flow, outcome", f'outcome!="read",{FLOW}'),
        ),
        (
            "Written",
            "Records that process flows wrote, by topic.",
            "cps",
            "{{topic}}",
            rate("trunkline_process_emitted_total", "topic", FLOW),
        ),
        (
            "Step, p99",
            "How long a step takes; one run in 64 is timed.",
            "s",
            "{{step}} {{outcome}}",
            quantile(0.99, "trunkline_step_duration_seconds", "step, outcome", FLOW),
        ),
        (
            "Look-ups",
            "Keys that targets were asked for, by what came of it: answered, or stale where an old answer had to do.",
            "cps",
            "{{lookup}} {{outcome}}",
            rate("trunkline_lookup_keys_total", "lookup, outcome", FLOW),
        ),
        (
            "Look-up, p99",
            "How long a target takes to answer a look-up; a batch waits for the slowest before its transaction begins.",
            "s",
            "{{lookup}} at {{target}}",
            quantile(0.99, "trunkline_lookup_duration_seconds", "lookup, target", FLOW),
        ),
        (
            "Records behind",
            "Offsets from where a flow is to the end of its topic.",
            "short",
            "{{flow}}",
            f"sum by (flow) (trunkline_flow_lag_records{{{FLOW}}})",
        ),
        (
            "Table records behind",
            "Records of a table's topic that a worker has not read yet; flows wait until a start has read its part.",
            "short",
            "{{table}}",
            "max by (table) (trunkline_table_lag_records)",
        ),
        (
            "Table rows",
            "Rows of a table, as the worker that has fewest of them holds them.",
            "short",
            "{{table}}",
            "min by (table) (trunkline_table_rows)",
        ),
        (
            "Came again",
            "Events that came again and were not delivered again, for the ledger knew them.",
            "cps",
            "{{sink}}",
            rate("trunkline_ledger_duplicates_total", "sink", FLOW),
        ),
    ],
    "Targets well?": [
        (
            "Targets down !",
            "Targets that are not called, or only probed.",
            "short",
            "",
            f"count(max by (target) (trunkline_circuit_state{{{TARGET}}}) > 0) or vector(0)",
        ),
        (
            "Circuit",
            "0 while calls are made, 1 while the target is probed, 2 while none are.",
            "short",
            "{{target}}",
            f"max by (target) (trunkline_circuit_state{{{TARGET}}})",
        ),
        (
            "Call, p99",
            "How long calls take, failed ones included.",
            "s",
            "{{target}}",
            quantile(0.99, "trunkline_delivery_duration_seconds", "target", TARGET),
        ),
        (
            "Answers",
            "Calls by class of answer; `none` is a call without one.",
            "cps",
            "{{target}} {{status_class}}",
            rate("trunkline_delivery_attempts_total", "target, status_class", TARGET),
        ),
        (
            "Asked to wait",
            "Seconds for which a target has yet asked not to be called (Retry-After).",
            "s",
            "{{target}}",
            f"clamp_min(max by (target) (trunkline_target_wait_until_timestamp_seconds{{{TARGET}}}) - time(), 0)",
        ),
        (
            "Calls in flight",
            "Calls that have no answer yet.",
            "short",
            "{{sink}}",
            f"sum by (sink) (trunkline_delivery_in_flight{{{FLOW}}})",
        ),
    ],
}


def panel(number: int, where: dict[str, int], told: Panel) -> dict[str, Any]:
    """Make a panel."""
    title, text, unit, legend, query = told
    single = title.endswith(" !")
    return {
        "id": number,
        "type": "stat" if single else "timeseries",
        "title": title.removesuffix(" !"),
        "description": text,
        "datasource": DATASOURCE,
        "gridPos": where,
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "options": {"graphMode": "area"} if single else {"tooltip": {"mode": "multi", "sort": "desc"}},
        "targets": [{"refId": "A", "datasource": DATASOURCE, "expr": query, "legendFormat": legend}],
    }


def panels() -> list[dict[str, Any]]:
    """Lay the rows out: one number and three charts to a line of 24 columns."""
    found: list[dict[str, Any]] = []
    top = 0
    for title, told in ROWS.items():
        place = {"h": 1, "w": 24, "x": 0, "y": top}
        found.append(
            {"id": len(found) + 1, "type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []}
        )
        top += 1
        for index, one in enumerate(told):
            line, column = divmod(index, 4)
            found.append(panel(len(found) + 1, {"h": 7, "w": 6, "x": 6 * column, "y": top + 7 * line}, one))
        top += 7 * ((len(told) + 3) // 4)
    return found


def variable(name: str, metric: str) -> dict[str, Any]:
    """Let whoever looks choose by a label."""
    return {
        "name": name,
        "type": "query",
        "datasource": DATASOURCE,
        "query": f"label_values({metric}, {name})",
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def dashboard() -> dict[str, Any]:
    """Make the dashboard."""
    return {
        "uid": "trunkline",
        "title": "Trunkline",
        "tags": ["trunkline"],
        "schemaVersion": 39,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "utc",
        "graphTooltip": 1,
        "templating": {
            "list": [
                {"name": "datasource", "type": "datasource", "query": "prometheus", "current": {}},
                variable("flow", "trunkline_flow_info"),
                variable("source", "trunkline_source_events_total"),
                variable("target", "trunkline_circuit_state"),
            ]
        },
        "panels": panels(),
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(dashboard(), indent=1) + "\n")
