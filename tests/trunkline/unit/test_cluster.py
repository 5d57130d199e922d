"""What is said to brokers about who we are, and what is never said to anybody else."""

import re
from pathlib import Path
from typing import Any

import pytest
import trustme
from confluent_kafka import Producer
from kafka.net.manager import KafkaConnectionManager

from trunkline.errors import UsageError
from trunkline.kafka.cluster import Cluster
from trunkline.redact import redact
from trunkline.settings import load

AUTHORITY = trustme.CA()
CA = AUTHORITY.cert_pem.bytes().decode()
ISSUED = AUTHORITY.issue_cert("bus@example.com")
CERTIFICATE = "".join(one.bytes().decode() for one in ISSUED.cert_chain_pems)
KEY = ISSUED.private_key_pem.bytes().decode()
LOGIN = {"tls": True, "ca": CA, "username": "shop", "password": "correct-horse"}


def made(**settings: Any) -> Cluster:
    return Cluster("one:9093", **settings)


@pytest.mark.parametrize(
    ("settings", "protocol"),
    [
        ({}, "PLAINTEXT"),
        ({"tls": True}, "SSL"),
        ({"tls": True, "ca": CA, "certificate": CERTIFICATE, "key": KEY}, "SSL"),
        (LOGIN, "SASL_SSL"),
        ({**LOGIN, "mechanism": "PLAIN"}, "SASL_SSL"),
        ({"username": "shop", "password": "correct-horse", "mechanism": "SCRAM-SHA-256"}, "SASL_PLAINTEXT"),
    ],
)
def test_both_clients_take_what_they_are_told(settings: dict[str, Any], protocol: str) -> None:
    cluster = made(**settings)
    told, asked = cluster.librdkafka(), cluster.kafka_python()
    Producer({**told, "log_level": 0})  # it knows every property, and reads the certificates
    assert asked.keys() <= KafkaConnectionManager.DEFAULT_CONFIG.keys()
    assert (told["security.protocol"], asked["security_protocol"]) == (protocol, protocol)
    wanted = settings.get("mechanism") or "SCRAM-SHA-512" if "username" in settings else None
    assert (told.get("sasl.mechanism"), asked["sasl_mechanism"]) == (wanted, wanted)
    if cluster.tls:
        assert told["enable.ssl.certificate.verification"] is True
        assert told["ssl.endpoint.identification.algorithm"] == "https"
        assert asked["ssl_context"].check_hostname


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"ca": CA}, "TRUNKLINE_KAFKA__CA is set and TRUNKLINE_KAFKA__TLS is not true"),
        ({"certificate": CERTIFICATE, "key": KEY}, "TRUNKLINE_KAFKA__CERTIFICATE is set and TRUNKLINE_KAFKA__TLS is "),
        (
            {"tls": True, "certificate": CERTIFICATE},
            "TRUNKLINE_KAFKA__CERTIFICATE is set and TRUNKLINE_KAFKA__KEY is ",
        ),
        ({"tls": True, "key": KEY}, "TRUNKLINE_KAFKA__KEY is set and TRUNKLINE_KAFKA__CERTIFICATE is not"),
        ({"tls": True, "username": "shop"}, "TRUNKLINE_KAFKA__USERNAME is set and TRUNKLINE_KAFKA__PASSWORD is not"),
        ({"password": "correct-horse"}, "TRUNKLINE_KAFKA__PASSWORD is set and TRUNKLINE_KAFKA__USERNAME is not"),
        ({"mechanism": "PLAIN"}, "TRUNKLINE_KAFKA__MECHANISM is set and TRUNKLINE_KAFKA__USERNAME is not"),
        ({**LOGIN, "tls": False, "ca": "", "mechanism": "PLAIN"}, "TRUNKLINE_KAFKA__MECHANISM is PLAIN and TRUNKLINE_"),
        (
            {"tls": True, "ca": "/etc/ca.pem"},
            "TRUNKLINE_KAFKA__CA holds no certificate. Set it to PEM, or ",
        ),
        ({"tls": True, "ca": "käse"}, "TRUNKLINE_KAFKA__CA holds no certificate"),
        (
            {"tls": True, "certificate": CA, "key": KEY},
            "TRUNKLINE_KAFKA__CERTIFICATE and TRUNKLINE_KAFKA__KEY are no",
        ),
        (
            {"tls": True, "certificate": "x", "key": "y"},
            "TRUNKLINE_KAFKA__CERTIFICATE and TRUNKLINE_KAFKA__KEY are no",
        ),
    ],
)
def test_what_contradicts_itself_is_named_in_one_line(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(said)}") as caught:
        made(**settings)
    assert len(str(caught.value).splitlines()) == 1
    assert "correct-horse" not in str(caught.value)


def test_no_secret_is_shown(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("correct-horse\n")
    (tmp_path / "ca.pem").write_text(CA)
    settings = load(
        {
            "TRUNKLINE_KAFKA__BOOTSTRAP": "one:9093",
            "TRUNKLINE_KAFKA__TLS": "true",
            "TRUNKLINE_KAFKA__CA_FILE": str(tmp_path / "ca.pem"),
            "TRUNKLINE_KAFKA__MECHANISM": "plain",
            "TRUNKLINE_KAFKA__USERNAME": "shop",
            "TRUNKLINE_KAFKA__PASSWORD_FILE": str(tmp_path / "password"),
        }
    )
    cluster = Cluster.of(settings.kafka)
    assert (cluster.sasl, cluster.password, cluster.ca) == ("PLAIN", "correct-horse", CA.rstrip())
    for shown in (repr(cluster), str(cluster), repr(settings), settings.model_dump_json()):
        assert "correct-horse" not in shown
    assert redact("said correct-horse") == "said [secret]"


def test_an_unknown_mechanism_is_named_with_those_there_are() -> None:
    with pytest.raises(UsageError, match=r"^TRUNKLINE_KAFKA__MECHANISM is 'GSSAPI': "):
        load({"TRUNKLINE_KAFKA__MECHANISM": "GSSAPI"})
