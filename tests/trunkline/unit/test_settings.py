from ipaddress import ip_network
from pathlib import Path

import pytest

from trunkline.errors import UsageError
from trunkline.settings import Secret, Settings, env, load, names


def test_without_variables_there_are_defaults() -> None:
    assert load({}) == Settings()
    assert load({"PATH": "/bin", "STOCK_URL": "http://localhost"}) == Settings()


def test_variables_set_what_they_name() -> None:
    settings = load(
        {
            "TRUNKLINE_KAFKA__BOOTSTRAP": "one:9092,two:9092",
            "TRUNKLINE_GATEWAY__PORT": "0",
            "TRUNKLINE_LEDGER__PATH": "/data/ledger.db",
            "TRUNKLINE_TARGETS__ALLOW": "10.0.0.0/8, fd00::/8",
            "TRUNKLINE_WORKER__DRAIN_SECONDS": "2.5",
            "TRUNKLINE_STATE": "state",
        }
    )
    assert settings.kafka.bootstrap == "one:9092,two:9092"
    assert settings.gateway.port == 0
    assert settings.ledger.path == Path("/data/ledger.db")
    assert settings.targets.allow == (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))
    assert settings.targets.model_dump(mode="json") == {"allow": "10.0.0.0/8,fd00::/8"}
    assert settings.worker.drain_seconds == 2.5
    assert settings.state == Path("state")


def test_only_the_given_environment_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUNKLINE_GATEWAY__PORT", "9999")
    assert load({}).gateway.port == 8701


def test_every_setting_has_a_variable() -> None:
    assert "TRUNKLINE_KAFKA__BOOTSTRAP" in set(names())
    assert "TRUNKLINE_STATE" in set(names())


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("TRUNKLINE_KAFKA__BOOTSTRP", "Did you mean TRUNKLINE_KAFKA__BOOTSTRAP?"),
        ("TRUNKLINE_KAFKA_BOOTSTRAP", "Did you mean TRUNKLINE_KAFKA__BOOTSTRAP?"),
        ("TRUNKLINE_XYZZY", "TRUNKLINE_XYZZY is no setting."),
        ("TRUNKLINE_KAFKA", "TRUNKLINE_KAFKA is no setting."),
    ],
)
def test_a_variable_that_means_nothing_is_an_error(name: str, told: str) -> None:
    with pytest.raises(UsageError) as error:
        load({name: "x"})
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TRUNKLINE_GATEWAY__PORT", "high"),
        ("TRUNKLINE_GATEWAY__PORT", "65536"),
        ("TRUNKLINE_GATEWAY__PORT", "-1"),
        ("TRUNKLINE_KAFKA__REPLICATION", "0"),
        ("TRUNKLINE_WORKER__DRAIN_SECONDS", "0"),
        ("TRUNKLINE_TARGETS__ALLOW", "10.0.0.1/8"),
        ("TRUNKLINE_TARGETS__ALLOW", "shop.example"),
    ],
)
def test_a_wrong_value_is_told_by_its_variable(name: str, value: str) -> None:
    with pytest.raises(UsageError, match=f"^{name} is '{value}': ") as error:
        load({name: value})
    assert "\n" not in str(error.value)


def test_a_value_may_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "value"
    file.write_text("broker:9092\n")
    assert load({"TRUNKLINE_KAFKA__BOOTSTRAP_FILE": str(file)}).kafka.bootstrap == "broker:9092"
    assert Secret("TOKEN").read({"TOKEN_FILE": str(file)}) == "broker:9092"
    assert env("URL").read({"URL": "here", "URL_FILE": str(file)}) == "here"


def test_what_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"URL is not set\. Set it, or URL_FILE"):
        env("URL").read({})
    with pytest.raises(UsageError, match=r"URL_FILE names .*/none, which cannot be read: No such file"):
        env("URL").read({"URL_FILE": str(tmp_path / "none")})


def test_a_secret_never_shows_its_value() -> None:
    secret = Secret("TOKEN")
    assert secret.read({"TOKEN": "hush-hush"}) == "hush-hush"
    assert "hush" not in f"{secret!r} {secret}"
