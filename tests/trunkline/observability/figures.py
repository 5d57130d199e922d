"""What a worker says at /metrics, read as Prometheus reads it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from tests.trunkline.support import ask


@dataclass(frozen=True)
class Figures:
    """Every sample: name, labels, value."""

    samples: Sequence[tuple[str, Mapping[str, str], float]]

    @property
    def names(self) -> set[str]:
        return {name for name, _, _ in self.samples}

    @property
    def surveyed(self) -> float:
        """When the worker last asked broker and ledger."""
        return self.total("survey_timestamp_seconds") or 0.0

    def total(self, name: str, **labels: str) -> float | None:
        """Add up the samples of a name with these labels; None when there is none."""
        found = [
            value for one, has, value in self.samples if one == f"trunkline_{name}" and labels.items() <= has.items()
        ]
        return sum(found) if found else None


def figures(url: str) -> Figures:
    """Read the figures of the worker at an address."""
    families = text_string_to_metric_families(ask(f"{url}/metrics").raise_for_status().text)
    return Figures([(one.name, one.labels, one.value) for found in families for one in found.samples])
