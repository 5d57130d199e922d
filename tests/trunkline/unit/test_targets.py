import asyncio
import secrets
from pathlib import Path

import pytest

from trunkline import ApiKey, Secret, Target, env
from trunkline.engine.targets import Targets
from trunkline.errors import UsageError

SECRET = secrets.token_hex()
DEPOT = Target("depot", env("DEPOT_URL"), auth=ApiKey(Secret("DEPOT_KEY")))


def opened(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Open the target at an address."""
    monkeypatch.setenv("DEPOT_URL", url)

    async def run() -> None:
        async with Targets([DEPOT, DEPOT], connections=1):
            pass

    asyncio.run(run())


@pytest.mark.parametrize("url", ["http://depot", "https://depot.example:8443/v1/", "http://[::1]:80", "HTTP://depot"])
def test_an_address(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("DEPOT_KEY", SECRET)
    opened(monkeypatch, url)


@pytest.mark.parametrize(
    "url",
    [
        *("depot", "depot:8080", "/v1", "ftp://depot", "http://", "http://depot:x", "http://depot:99999"),
        *("http://[::1", "http://depot?key=1", "http://depot/v1#top"),
    ],
)
def test_what_is_no_address_is_said_before_anything_is_called(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("DEPOT_KEY", SECRET)
    with pytest.raises(UsageError, match="DEPOT_URL is no address that target depot can be called at"):
        opened(monkeypatch, url)


@pytest.mark.parametrize("tail", ["\nX-Admin: 1", "\x00"], ids=["line break", "null"])
def test_a_secret_that_no_header_holds_is_said_and_never_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tail: str
) -> None:
    (tmp_path / "key").write_text(SECRET + tail)
    monkeypatch.setenv("DEPOT_KEY_FILE", str(tmp_path / "key"))
    with pytest.raises(UsageError, match="Set DEPOT_KEY again") as error:
        opened(monkeypatch, "http://depot")
    assert SECRET not in f"{error.value}{error.value.__cause__}"
    assert error.value.__suppress_context__
