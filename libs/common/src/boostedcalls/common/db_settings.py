"""Where the database is, and who logs in to it: its owner, or the role of a service."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import parse_qs, quote, urlsplit

from pydantic import AfterValidator, AliasChoices, Field, SecretStr

from boostedcalls.common.settings import Settings

_MIN_PASSWORD = 16


def _role_password(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    if len(text) < _MIN_PASSWORD or not (text.isascii() and text.isprintable()):
        raise ValueError(f"needs at least {_MIN_PASSWORD} ASCII characters; make one with: openssl rand -hex 16")
    return value


RolePassword = Annotated[SecretStr, AfterValidator(_role_password)]


def role_of(service: str) -> str:
    """The role that a service logs in with, where it has a password of its own."""
    return f"boostedcalls_{service}"


class DatabaseSettings(Settings):
    """Where the database is: `DATABASE_URL`, or the five `DB_…` variables. They may name the owner, who migrates; a
    service whose own password is set replaces user and password by its own."""

    database_url: SecretStr | None = Field(None, validation_alias=AliasChoices("DATABASE_URL", "database_url"))
    db_host: str = "localhost"
    db_port: int = 5432
    db_name: str = "postgres"
    db_user: str = "postgres"
    db_password: SecretStr = SecretStr("")
    db_pool_size: int = Field(10, ge=1, le=200)
    db_statement_cache: bool = True
    db_gateway_password: RolePassword | None = None
    db_contacts_password: RolePassword | None = None
    db_calls_password: RolePassword | None = None

    def role_password(self, service: str) -> str | None:
        """The password of a service's own role; None where it is not set, and for what is no service."""
        found: SecretStr | None = getattr(self, f"db_{service}_password", None)
        return None if found is None else found.get_secret_value()

    def dsn(self) -> str:
        """As the variables say. A URL without user and password takes them from DB_USER and DB_PASSWORD."""
        password = quote(self.db_password.get_secret_value(), safe="")
        owner = f"{quote(self.db_user, safe='')}:{password}@"
        if self.database_url is None:
            return f"postgresql://{owner}{self.db_host}:{self.db_port}/{self.db_name}"
        url = self.database_url.get_secret_value()
        parts = urlsplit(url)
        given = self.model_fields_set & {"db_user", "db_password"}
        if not given or "@" in parts.netloc or "user" in parse_qs(parts.query):
            return url
        return parts._replace(netloc=owner + parts.netloc).geturl()

    def login(self, service: str) -> dict[str, Any]:
        """The arguments of asyncpg that log the service in."""
        password = self.role_password(service)
        own = {} if password is None else {"user": role_of(service), "password": password}
        return {"dsn": self.dsn(), **own}
