"""`pytest tests/trunkline/faults --group NAME` runs one group; every test also runs alone."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--group", help="run the faults of this group only")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    group = config.getoption("--group", default=None)
    if group is None:
        return
    chosen = [item for item in items if any(mark.kwargs["group"] == group for mark in item.iter_markers("faults"))]
    if not chosen:
        raise pytest.UsageError(f"there is no group {group}")
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen
