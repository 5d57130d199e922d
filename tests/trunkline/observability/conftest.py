import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.trunkline.observability.hearing import Witness
from tests.trunkline.support import ROOT


@pytest.fixture
def heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Witness]:
    file = tmp_path / "heard.jsonl"
    command = [sys.executable, "-m", "tests.trunkline.observability.witness", str(file)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        monkeypatch.setenv("HEARD_URL", f"{url}/api")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        yield Witness(url, file)
        process.kill()


@pytest.fixture
def exported(heard: Witness, monkeypatch: pytest.MonkeyPatch) -> Witness:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", heard.url)
    return heard
