"""The gateway's settings, its database's and its NATS server's among them: one look says all that is wrong."""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, SecretStr, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from boostedcalls.common.bus import NatsSettings
from boostedcalls.common.bus.settings import NatsPassword
from boostedcalls.common.db import DatabaseSettings
from boostedcalls.common.settings import Listed, Names, Settings, strong_secret
from boostedcalls.gateway.claims import MAX_SECONDS
from boostedcalls.gateway.keyring import ring_of
from boostedcalls.gateway.webhook_settings import WebhookSettings

_ORIGIN = re.compile(r"https?://([a-z0-9.-]+|\[[0-9a-f:]+\])(:[0-9]{1,5})?")


def _origins(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if not _ORIGIN.fullmatch(value):
            raise ValueError(f"{value!r} is no origin; write each as https://host or https://host:port, and no *")
    return values


class KeyFileSettings(Settings):
    """What the command `keys` works with: the file may have to be made first."""

    jwt_keys_file: Path | None = None
    access_token_minutes: int = Field(15, ge=1, le=MAX_SECONDS // 60)


class GatewaySettings(DatabaseSettings, NatsSettings, KeyFileSettings, WebhookSettings):
    nats_gateway_password: NatsPassword | None = None
    host: str = "0.0.0.0"
    port: int = Field(8000, ge=0, le=65535)
    operations_host: str = "0.0.0.0"
    operations_port: int | None = Field(None, ge=0, le=65535)
    docs_enabled: bool = True
    metrics_enabled: bool = True
    cors_origins: Annotated[Names, AfterValidator(_origins)] = ()
    jwt_secret: Annotated[SecretStr, AfterValidator(strong_secret)] | None = Field(None, validate_default=True)
    refresh_token_days: int = Field(30, ge=1, le=365)
    signup_enabled: bool = False
    trusted_proxies: Annotated[tuple[IPv4Network | IPv6Network, ...], *Listed] = ()
    # Limits: 0 switches one off.
    login_tries_per_pair: int = Field(5, ge=0)
    login_tries_per_account: int = Field(10, ge=0)
    login_tries_per_address: int = Field(20, ge=0)
    login_tries_per_minute: int = Field(1000, ge=0)
    signups_per_address_per_hour: int = Field(10, ge=0)
    requests_per_user_per_minute: int = Field(1200, ge=0)
    spool_dir: Path | None = None
    spool_max_bytes: int = Field(1024**3, ge=1024**2)

    @field_validator("operations_port")
    @classmethod
    def _another(cls, port: int | None, info: ValidationInfo) -> int | None:
        if port and port == info.data.get("port"):
            raise ValueError(f"is the same as PORT ({port}); take another")
        return port

    @field_validator("trusted_proxies", mode="before")
    @classmethod
    def _networks(cls, given: Any) -> Any:
        names = [each.strip() for each in given.split(",") if each.strip()] if isinstance(given, str) else given
        for name in names:
            try:
                ip_network(name)
            except ValueError:
                raise ValueError(f"{name!r} is no address; write a.b.c.d or a.b.c.0/24, with commas between") from None
        return names

    @field_validator("jwt_keys_file")
    @classmethod
    def _usable(cls, path: Path | None) -> Path | None:
        if path is not None:
            ring_of(path)
        return path

    @field_validator("jwt_secret")
    @classmethod
    def _there_unless_a_file_is(cls, secret: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        # A file that is named but broken is missing in `data`, and has been found fault with already.
        if secret is None and info.data.get("jwt_keys_file", ...) is None:
            raise PydanticCustomError("missing", "is missing")
        return secret
