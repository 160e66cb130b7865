from typing import Annotated

import pytest
from pydantic import AfterValidator, Field, SecretStr

from boostedcalls.common.db import DatabaseSettings
from boostedcalls.common.settings import Names, Seconds, Settings, demo_secrets, load, strong_secret

GOOD = "0123456789abcdef" * 2


class Sample(Settings):
    sample_secret: Annotated[SecretStr, AfterValidator(strong_secret)]
    sample_port: int = Field(1, ge=1, le=65535)
    sample_steps: Seconds = Field((30, 60), min_length=1)
    sample_hosts: Names = ()


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(capsys) -> str:
    with pytest.raises(SystemExit) as caught:
        load(Sample)
    assert caught.value.code == 2
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    return text


def test_missing_secret_is_named_with_the_command_that_makes_one(capsys):
    text = said(capsys)
    assert "SAMPLE_SECRET: is missing" in text
    assert "openssl rand -hex 32" in text


def test_weak_secret_is_refused_without_being_shown(capsys, monkeypatch):
    monkeypatch.setenv("SAMPLE_SECRET", "hunter2hunter2")
    text = said(capsys)
    assert "SAMPLE_SECRET: needs at least 32 bytes" in text
    assert "hunter2" not in text


@pytest.mark.parametrize("secret", ["a" * 32, "ab" * 500, "1234567" * 9, " " * 40, "ü" * 32])
def test_secret_that_is_long_but_nearly_all_the_same_is_refused(capsys, monkeypatch, secret):
    monkeypatch.setenv("SAMPLE_SECRET", secret)
    text = said(capsys)
    assert "SAMPLE_SECRET: is too easy to guess; make one with: openssl rand -hex 32" in text
    assert secret not in text


def test_secrets_of_the_compose_file_are_named(monkeypatch):
    monkeypatch.setenv("SAMPLE_SECRET", "demo-only-sample-secret-of-32-bytes")
    assert demo_secrets(load(Sample)) == ["SAMPLE_SECRET"]
    monkeypatch.setenv("SAMPLE_SECRET", GOOD)
    assert demo_secrets(load(Sample)) == []
    monkeypatch.setenv("DATABASE_URL", "postgresql://postgres:demo-only-database-password@postgres/postgres")
    assert demo_secrets(load(DatabaseSettings)) == ["DATABASE_URL"]


def test_every_fault_is_in_the_one_line(capsys, monkeypatch):
    monkeypatch.setenv("SAMPLE_PORT", "0")
    monkeypatch.setenv("SAMPLE_STEPS", "soon")
    text = said(capsys)
    assert all(name in text for name in ("SAMPLE_SECRET", "SAMPLE_PORT", "SAMPLE_STEPS"))


def test_environment_goes_before_the_file_and_both_before_the_default(monkeypatch, empty_folder):
    (empty_folder / ".env").write_text(f"SAMPLE_SECRET={GOOD}\nSAMPLE_PORT=7\nUNKNOWN=1\n")
    monkeypatch.setenv("SAMPLE_PORT", "8")
    found = load(Sample)
    assert (found.sample_secret.get_secret_value(), found.sample_port) == (GOOD, 8)


def test_empty_variable_counts_as_left_out(monkeypatch):
    monkeypatch.setenv("SAMPLE_SECRET", GOOD)
    monkeypatch.setenv("SAMPLE_PORT", "")
    assert load(Sample).sample_port == 1


def test_lists_are_written_with_commas(monkeypatch):
    monkeypatch.setenv("SAMPLE_SECRET", GOOD)
    monkeypatch.setenv("SAMPLE_STEPS", "1, 2.5,,3")
    monkeypatch.setenv("SAMPLE_HOSTS", ".vapi.ai, localhost")
    found = load(Sample)
    assert (found.sample_steps, found.sample_hosts) == ((1.0, 2.5, 3.0), (".vapi.ai", "localhost"))


def test_secret_is_not_shown_by_printing_the_settings(monkeypatch):
    monkeypatch.setenv("SAMPLE_SECRET", GOOD)
    assert GOOD not in repr(load(Sample))


def test_database_is_taken_from_its_url_or_from_its_parts(monkeypatch):
    for name in ("DATABASE_URL", "DB_HOST", "DB_PORT", "DB_NAME", "DB_USER", "DB_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DB_HOST", "db.example.com")
    monkeypatch.setenv("DB_USER", "postgres.ref")
    monkeypatch.setenv("DB_PASSWORD", "p@ss/w:rd")
    assert load(DatabaseSettings).dsn() == "postgresql://postgres.ref:p%40ss%2Fw%3Ard@db.example.com:5432/postgres"
    monkeypatch.setenv("DATABASE_URL", "postgresql://me:mine@elsewhere/x")
    assert load(DatabaseSettings).dsn() == "postgresql://me:mine@elsewhere/x"
    # What it does not say of the user stands beside it, or nowhere.
    monkeypatch.setenv("DATABASE_URL", "postgresql://elsewhere/x")
    assert load(DatabaseSettings).dsn() == "postgresql://postgres.ref:p%40ss%2Fw%3Ard@elsewhere/x"
    for name in ("DB_USER", "DB_PASSWORD"):
        monkeypatch.delenv(name)
    assert load(DatabaseSettings).dsn() == "postgresql://elsewhere/x"
