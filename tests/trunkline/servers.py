"""Servers that other people wrote, run as processes: what they take for right does not come from us.

Maven fetches each once into the user's cache, Go builds one there; a test that needs one which cannot be had is skipped
by its name, and fails where REQUIRE_SERVERS is set.
"""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import httpx
import pytest

from tests.shared import free_port, locked
from tests.trunkline.support import wait_for

GOAL = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1"
OAUTH = "no.nav.security:mock-oauth2-server:2.1.10"
TOXIPROXY = "github.com/Shopify/toxiproxy/v2/cmd/server@v2.12.0"
WIREMOCK = "org.wiremock:wiremock-standalone:3.13.2"
POM = """<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>trunkline</groupId><artifactId>test-server</artifactId><version>1</version><dependencies><dependency>
<groupId>{}</groupId><artifactId>{}</artifactId><version>{}</version></dependency></dependencies></project>"""


def not_here(told: str) -> NoReturn:
    """Skip a test that needs a program which is not here, or fail it where all have to be."""
    if "REQUIRE_SERVERS" in os.environ:
        pytest.fail(told)
    pytest.skip(told)


def cache_of_ours() -> Path:
    """Give the folder where what was fetched stays."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trunkline"
    cache.mkdir(parents=True, exist_ok=True)
    return cache


def jars(coordinates: str) -> Path:
    """Give the folder of a server's jars, or skip the test."""
    group, name, version = coordinates.split(":")
    cache = cache_of_ours()
    libs = cache / f"{name}-{version}"
    if not shutil.which("java") or not (libs.is_dir() or shutil.which("mvn")):
        not_here(f"{name} {version} cannot be had here: it needs Java, and Maven to fetch it")
    if not libs.is_dir():
        with tempfile.TemporaryDirectory(dir=cache) as partial:
            Path(partial, "pom.xml").write_text(POM.format(group, name, version))
            arguments = (f"{GOAL}:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={partial}/libs")
            done = subprocess.run(["mvn", "-q", "-B", *arguments], cwd=partial, capture_output=True, check=False)
            if done.returncode != 0:
                not_here(f"{name} {version} cannot be had here: Maven did not fetch it")
            if not libs.is_dir():
                Path(partial, "libs").rename(libs)
    return libs


@contextmanager
def running(command: list[str], environment: Mapping[str, str], log: Path, ready: str) -> Iterator[None]:
    """Run a server until the end; it is ready when it answers at this address."""

    def answers() -> bool:
        assert process.poll() is None, log.read_text()[-2000:]
        try:
            return httpx.get(ready, timeout=10).is_success
        except httpx.TransportError:
            return False

    with log.open("wb") as out:
        process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=out, stderr=out)
    try:
        wait_for(answers, seconds=60, why=log.read_text)
        yield
    finally:
        process.kill()
        process.wait()


@contextmanager
def oauth(folder: Path, lives: Mapping[str, int]) -> Iterator[str]:
    """Run mock-oauth2-server with an issuer for each name, whose tokens live for so many seconds; give its address.

    With each answer to a refresh token comes a new one.
    """
    port = free_port()
    mapping = {"requestParam": "scope", "match": ".*", "claims": {"sub": "trunkline", "aud": ["erp"]}}
    callbacks = [{"issuerId": name, "tokenExpiry": life, "requestMappings": [mapping]} for name, life in lives.items()]
    config = {"rotateRefreshToken": True, "tokenCallbacks": callbacks}
    settings = {"SERVER_PORT": str(port), "JSON_CONFIG": json.dumps(config)}
    main = "no.nav.security.mock.oauth2.StandaloneMockOAuth2ServerKt"
    command = ["java", "-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", f"{jars(OAUTH)}/*", main]
    with running(command, settings, folder / "oauth.log", f"http://127.0.0.1:{port}/isalive"):
        yield f"http://127.0.0.1:{port}"


class WireMock:
    """A server that answers what each test tells it, and remembers what it was asked."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._admin = f"{url}/__admin"

    def answer(self, request: Mapping[str, Any], response: Mapping[str, Any], **more: Any) -> None:
        """Answer requests like this one so, before what was said earlier."""
        stub = {"request": request, "response": response, **more}
        httpx.post(f"{self._admin}/mappings", json=stub, timeout=60).raise_for_status()

    def asked(self, path: str) -> list[dict[str, Any]]:
        """Give the requests to a path, in the order in which they came."""
        found = (
            httpx.post(f"{self._admin}/requests/find", json={"url": path}, timeout=60)
            .raise_for_status()
            .json()["requests"]
        )
        return list(found)


@contextmanager
def wiremock(folder: Path) -> Iterator[str]:
    """Run WireMock; give its address."""
    port, root = free_port(), folder / "wiremock"
    root.mkdir()
    java = ["java", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", f"{jars(WIREMOCK)}/*"]
    main = ["wiremock.Run", "--port", str(port), "--bind-address", "127.0.0.1", "--root-dir", str(root)]
    with running([*java, *main], {}, folder / "wiremock.log", f"http://127.0.0.1:{port}/__admin/mappings"):
        yield f"http://127.0.0.1:{port}"


class Toxiproxy:
    """A TCP proxy whose connections are harmed as each test says, with toxiproxy's own toxics."""

    def __init__(self, api: str, upstream: int) -> None:
        port = free_port()
        self.port = port
        self._proxy = f"{api}/proxies/target"
        listen = {"name": "target", "listen": f"127.0.0.1:{port}", "upstream": f"127.0.0.1:{upstream}"}
        httpx.post(f"{api}/proxies", json=listen, timeout=60).raise_for_status()

    def poison(self, kind: str, *, toxicity: float = 1.0, stream: str = "downstream", **attributes: int) -> None:
        """Harm a share of the connections that are made from now on, in this way."""
        toxic = {"type": kind, "stream": stream, "toxicity": toxicity, "attributes": attributes}
        httpx.post(f"{self._proxy}/toxics", json=toxic, timeout=60).raise_for_status()

    def heal(self) -> None:
        """Harm nothing any more; connections that were harmed are closed."""
        for toxic in httpx.get(f"{self._proxy}/toxics", timeout=60).raise_for_status().json():
            httpx.delete(f"{self._proxy}/toxics/{toxic['name']}", timeout=60).raise_for_status()
        self.enable(enabled=False)
        self.enable(enabled=True)

    def enable(self, *, enabled: bool) -> None:
        """Listen, or close every connection and do not."""
        httpx.post(self._proxy, json={"enabled": enabled}, timeout=60).raise_for_status()


def toxiproxy_built() -> Path:
    """Give toxiproxy's server, or skip the test; Go builds it when it is first wanted, for all who want it then."""
    built = cache_of_ours() / f"toxiproxy-{TOXIPROXY.rpartition('@')[2]}"
    with locked(built.with_name(f"{built.name}.lock")):
        if built.is_file():
            return built
        if not shutil.which("go"):
            not_here("toxiproxy cannot be had here: it needs Go to build it")
        with tempfile.TemporaryDirectory(dir=built.parent) as partial:
            environment = {**os.environ, "GOBIN": partial}
            done = subprocess.run(
                ["go", "install", TOXIPROXY], cwd=partial, env=environment, capture_output=True, check=False
            )
            if done.returncode != 0:
                not_here("toxiproxy cannot be had here: Go did not build it")
            Path(partial, "server").replace(built)
    return built


@contextmanager
def toxiproxy(folder: Path, upstream: int) -> Iterator[Toxiproxy]:
    """Run toxiproxy before a server on this machine."""
    port = free_port()
    command = [str(toxiproxy_built()), "-host", "127.0.0.1", "-port", str(port)]
    with running(command, {}, folder / "toxiproxy.log", f"http://127.0.0.1:{port}/version"):
        yield Toxiproxy(f"http://127.0.0.1:{port}", upstream)
