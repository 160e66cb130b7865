"""The gateway's settings, its database's and its NATS server's among them: one look says all that is wrong."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr

from boostedcalls.common.bus import NatsSettings
from boostedcalls.common.db import DatabaseSettings
from boostedcalls.common.settings import Listed, strong_secret

SHORT_SECRET = 16


class GatewaySettings(DatabaseSettings, NatsSettings):
    host: str = "0.0.0.0"
    port: int = Field(8000, ge=0, le=65535)
    jwt_secret: Annotated[SecretStr, AfterValidator(strong_secret)]
    access_token_minutes: int = Field(15, ge=1, le=60)
    refresh_token_days: int = Field(30, ge=1, le=365)
    signup_enabled: bool = False
    vapi_webhook_secret: SecretStr
    vapi_webhook_secret_previous: SecretStr | None = None
    vapi_webhook_hmac_secret: SecretStr | None = None
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
