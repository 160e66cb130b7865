"""The calls service's settings."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationInfo, field_validator

from boostedcalls.common.bus import NatsSettings
from boostedcalls.common.bus.settings import NatsPassword
from boostedcalls.common.settings import Names, Seconds, Settings, strong_secret


class CallsNats(NatsSettings):
    nats_calls_password: NatsPassword | None = None


class ProviderSettings(Settings):
    """Where the provider is, and what every call tells it."""

    vapi_api_key: SecretStr
    vapi_base_url: str = "https://api.vapi.ai"
    vapi_control_hosts: Names = (".vapi.ai",)
    vapi_webhook_url: str | None = None
    vapi_webhook_secret: SecretStr | None = None
    vapi_webhook_credential_id: str | None = None
    vapi_assistant_id: str | None = None
    vapi_phone_number_id: str | None = None
    vapi_model_provider: str = "openai"
    vapi_model: str = "gpt-4.1"
    call_signing_secret: Annotated[SecretStr, AfterValidator(strong_secret)]
    dispatch_read_timeout: float = Field(20, gt=0, le=60)

    @field_validator("vapi_base_url", "vapi_webhook_url")
    @classmethod
    def _https(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(f"must be an http(s) address, and not {value!r}")
        return value.rstrip("/") if info.field_name == "vapi_base_url" else value


class CallsSettings(Settings):
    """Limits and times, in seconds."""

    max_active_calls_per_user: int = Field(10, ge=1)
    # 0 switches one of these two off.
    create_calls_per_minute: int = Field(60, ge=0)
    number_cooldown: float = Field(60, ge=0)
    # The gateway waits 20 s for the answer, the contacts service may take 3 of them.
    dispatch_wait: float = Field(8, ge=0, le=15)
    dispatch_deadline: float = Field(60, gt=0)
    reconcile_steps: Seconds = Field((30, 60, 300, 1800), min_length=1)
    sync_steps: Seconds = Field((60, 300, 900, 3600), min_length=1)
    sync_on_read: float = Field(3, ge=0)
    sync_poll: float = Field(1, gt=0)
    call_max_age: float = Field(24 * 3600, gt=0)
    audit_every: float = Field(60, gt=0)
