"""Passwords and certificates reach the clients that need them, and nobody else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from pipeline.config import SECRETS, Database, Kafka, load
from pipeline.errors import BrokerAway, RegistryError, SettingsError
from pipeline.ingest import kafka_client
from pipeline.ingest.kafka_client import connection, partitions, translated
from pipeline.register.engine import connect, reading
from tests.brokers import free_ports
from tests.tls import Certificates, letting_in

ROOT = Path(__file__).parent.parent
#: What must be seen nowhere.
CANARIES = {
    "TIDEMARK_KAFKA_SASL_PASSWORD": "canary-of-sasl",
    "TIDEMARK_KAFKA_SSL_PASSWORD": "canary-of-the-key",
}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """One authority for all."""
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.mark.parametrize(
    "command",
    [
        ["config"],
        ["doctor", "--json"],
        ["--debug", "doctor"],
        ["--debug", "stream"],
        ["--debug", "serve"],
        ["--debug", "token", "list"],
    ],
    ids=" ".join,
)
def test_no_command_shows_a_secret(tmp_path: Path, command: list[str]) -> None:
    """Neither settings, nor what is wrong with broker and database, nor a traceback, nor a log."""
    broker, database = free_ports(2)
    url = f"postgresql://ada:canary-of-sql@127.0.0.1:{database}/t?sslpassword=canary-of-option"
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", *command],
        cwd=tmp_path,
        env=os.environ
        | CANARIES
        | {
            "PYTHONPATH": str(ROOT),
            "TIDEMARK_KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{broker}",
            "TIDEMARK_KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
            "TIDEMARK_KAFKA_SASL_MECHANISM": "SCRAM-SHA-256",
            "TIDEMARK_RUN_OUTAGE_LIMIT_S": "0",
            "TIDEMARK_DATABASE_URL": url,
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    said = done.stdout + done.stderr
    assert said
    assert (done.returncode == 0) == (command == ["config"])
    assert "canary" not in said


def test_a_secret_can_be_in_a_file(tmp_path: Path) -> None:
    """As orchestrators mount them: any setting's name with _FILE; one line's end is an editor's."""
    secret, url = tmp_path / "secret", tmp_path / "url"
    secret.write_text("p w\u00e9\n")
    url.write_text("postgresql://ada:p@db/t")
    settings = load(
        None,
        {
            "TIDEMARK_KAFKA_SASL_PASSWORD_FILE": str(secret),
            "TIDEMARK_DATABASE_URL_FILE": str(url),
            "TIDEMARK_RUN_READY_FILE": "/ready",  # whose own name ends so
        },
    )
    assert settings.kafka.sasl_password == "p w\u00e9"  # noqa: S105
    assert settings.database.url == "postgresql://ada:p@db/t"
    assert settings.run.ready_file == "/ready"


def test_a_secrets_file_that_is_wrong_is_one_line(tmp_path: Path) -> None:
    """Not there, a folder, no text, or given twice."""
    name = "TIDEMARK_KAFKA_SASL_PASSWORD"
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    for path, why in (
        (tmp_path / "none", "No such file"),
        (tmp_path, "Is a directory"),
        (binary, "not UTF-8"),
    ):
        with pytest.raises(SettingsError, match=rf"^{name}_FILE: {path}: {why}"):
            load(None, {f"{name}_FILE": str(path)})
    with pytest.raises(SettingsError, match=rf"^{name} and {name}_FILE: give one"):
        load(None, {name: "a", f"{name}_FILE": str(binary)})
    with pytest.raises(SettingsError, match="no such setting"):
        load(None, {"TIDEMARK_NOTHING_FILE": str(binary)})


def test_every_password_is_a_secret() -> None:
    """A new one has to be named among those that no digest holds."""
    from pipeline.config import keys

    named = {(key.section, key.name) for key in keys() if "password" in key.name}
    assert named == set(SECRETS)


# What reaches the clients -----------------------------------------------------------------------


def test_what_kafka_is_given_is_what_the_settings_say() -> None:
    """By kafka-python's names; what is empty is its own default."""
    given = connection(
        Kafka(
            security_protocol="SASL_SSL",
            sasl_mechanism="SCRAM-SHA-512",
            sasl_username="ada",
            sasl_password="p",  # noqa: S106
            ssl_cafile="ca",
            ssl_certfile="cert",
            ssl_keyfile="key",
            ssl_password="q",  # noqa: S106
            ssl_check_hostname=False,
        )
    )
    expected = {
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "ada",
        "sasl_plain_password": "p",
        "ssl_cafile": "ca",
        "ssl_certfile": "cert",
        "ssl_keyfile": "key",
        "ssl_password": "q",
        "ssl_check_hostname": False,
    }
    assert expected.items() <= given.items()
    assert not {name for name in connection(Kafka()) if name.startswith(("ssl", "sasl"))}


def test_a_broker_over_tls_sees_our_certificate(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch, forgotten_sockets: None
) -> None:
    """A real handshake, both ways; without a certificate the broker refuses, and we another's."""
    monkeypatch.setattr(kafka_client, "ANSWER_MS", 1000)
    c = certificates
    with letting_in(c) as seen:
        address = f"127.0.0.1:{seen.port}"
        ours = {"ssl_certfile": str(c.cert), "ssl_keyfile": str(c.key)}
        kafka = Kafka(bootstrap_servers=address, security_protocol="SSL", ssl_cafile=str(c.ca))
        for options in (ours, {}):
            with_ = Kafka(**{name: getattr(kafka, name) for name in FIELDS} | options)
            with pytest.raises(BrokerAway), translated(with_):
                partitions(with_, ["readings"])
            if options:
                assert set(seen.names) == {"ada"}
                assert not seen.refused
                seen.names.clear()
    assert not seen.names
    assert seen.refused


FIELDS = ("bootstrap_servers", "security_protocol", "ssl_cafile")


def test_a_database_over_tls_sees_our_certificate(certificates: Certificates) -> None:
    """libpq's options stand in the URL; the user's name comes after the handshake, not before."""
    c = certificates
    with letting_in(c, asked_first=True) as seen:
        url = (
            f"postgresql://ada@127.0.0.1:{seen.port}/tidemark?sslmode=verify-full"
            f"&sslrootcert={c.ca}&sslcert={c.cert}&sslkey={c.key}"
        )
        engine = connect(Database(url=url))
        with pytest.raises((RegistryError, OperationalError)), reading(engine) as conn:
            conn.exec_driver_sql("SELECT 1")
        engine.dispose()
    assert seen.names == ["ada"]
    assert b"user\0ada\0" in seen.first[0]
