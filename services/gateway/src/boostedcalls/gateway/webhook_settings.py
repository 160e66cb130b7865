"""By what webhooks are known to be the provider's."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr, ValidationInfo, field_validator

from boostedcalls.common.settings import DEMO, Settings, weakness
from boostedcalls.gateway.signatures import (
    MESSAGE_ID,
    TIMESTAMP,
    URL,
    Way,
    credential,
    split_format,
    standard_webhooks,
)

_MIN_WEBHOOK_SECRET = 16
# What the specification asks for.
_MIN_STANDARD_SECRET = 24
_STANDARD_PREFIX = "whsec_"
_HEADER = r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$"


def _plain(value: SecretStr) -> SecretStr:
    if fault := weakness(value.get_secret_value().encode(), _MIN_WEBHOOK_SECRET):
        raise ValueError(fault)
    return value


def _from_base64(value: SecretStr) -> bytes:
    text = value.get_secret_value().removeprefix(_STANDARD_PREFIX)
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("is not base64; make one with: openssl rand -base64 32") from None


def _check_base64(value: SecretStr, least: int) -> None:
    if fault := weakness(_from_base64(value), least):
        raise ValueError(fault.replace("bytes;", "bytes in base64;").replace("-hex", "-base64"))


def _standard(value: SecretStr) -> SecretStr:
    _check_base64(value, _MIN_STANDARD_SECRET)
    return value


WebhookSecret = Annotated[SecretStr, AfterValidator(_plain)]
StandardSecret = Annotated[SecretStr, AfterValidator(_standard)]


class WebhookSettings(Settings):
    """By what webhooks are known to be the provider's; the names of the HMAC credential's are those of its schema."""

    vapi_webhook_url: str | None = None
    standard_webhooks_secret: StandardSecret | None = None
    standard_webhooks_secret_previous: StandardSecret | None = None
    vapi_webhook_hmac_secret_is_base64: bool = False
    vapi_webhook_hmac_secret: SecretStr | None = None
    vapi_webhook_hmac_secret_previous: SecretStr | None = None
    vapi_webhook_hmac_algorithm: Literal["sha256", "sha512", "sha1"] = "sha256"
    vapi_webhook_hmac_signature_header: str = Field("x-signature", pattern=_HEADER)
    vapi_webhook_hmac_timestamp_header: str = Field("x-timestamp", pattern=_HEADER)
    vapi_webhook_hmac_message_id_header: str | None = Field(None, pattern=_HEADER)
    vapi_webhook_hmac_payload_format: str = f"{TIMESTAMP}.{{body}}"
    vapi_webhook_hmac_signature_encoding: Literal["hex", "base64"] = "hex"
    vapi_webhook_hmac_signature_prefix: str = ""
    # Last: whether it is needed depends on the others.
    vapi_webhook_secret_previous: WebhookSecret | None = None
    vapi_webhook_secret: WebhookSecret | None = Field(None, validate_default=True)

    @field_validator("vapi_webhook_hmac_secret", "vapi_webhook_hmac_secret_previous")
    @classmethod
    def _check_key(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if value is not None:
            if info.data.get("vapi_webhook_hmac_secret_is_base64"):
                _check_base64(value, _MIN_WEBHOOK_SECRET)
            else:
                _plain(value)
        return value

    @field_validator("vapi_webhook_hmac_payload_format")
    @classmethod
    def _check_format(cls, value: str, info: ValidationInfo) -> str:
        parts = split_format(value)
        needed = {MESSAGE_ID: "vapi_webhook_hmac_message_id_header", URL: "vapi_webhook_url"}
        for part, name in needed.items():
            if part in parts and not info.data.get(name):
                raise ValueError(f"has {part}, which needs {name.upper()}")
        return value

    @field_validator("vapi_webhook_secret")
    @classmethod
    def _check_any(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        others = ("vapi_webhook_hmac_secret", "standard_webhooks_secret")
        # A name that is not there was refused already.
        if value is None and all(name in info.data and info.data[name] is None for name in others):
            named = " or ".join(name.upper() for name in others)
            raise ValueError(f"is missing, and neither is there {named}; make one with: openssl rand -hex 32")
        return value

    def webhook_secrets(self) -> tuple[bytes, ...]:
        """The secrets that are good. One that docker-compose.yml brings along is none beside a signed way: it stands
        there for whoever sets up nothing, and everybody knows it."""
        given = (self.vapi_webhook_secret, self.vapi_webhook_secret_previous)
        found = [secret.get_secret_value() for secret in given if secret]
        if self.webhook_ways():
            found = [secret for secret in found if not secret.startswith(DEMO)]
        return tuple(secret.encode() for secret in found)

    def webhook_ways(self) -> tuple[Way, ...]:
        """The signed ways that are configured."""
        found: list[Way] = []
        signing = [key for key in (self.vapi_webhook_hmac_secret, self.vapi_webhook_hmac_secret_previous) if key]
        if signing:
            is_base64 = self.vapi_webhook_hmac_secret_is_base64
            found.append(
                credential(
                    tuple(_from_base64(key) if is_base64 else key.get_secret_value().encode() for key in signing),
                    signature=self.vapi_webhook_hmac_signature_header,
                    timestamp=self.vapi_webhook_hmac_timestamp_header,
                    message_id=self.vapi_webhook_hmac_message_id_header,
                    payload_format=self.vapi_webhook_hmac_payload_format,
                    algorithm=self.vapi_webhook_hmac_algorithm,
                    encoding=self.vapi_webhook_hmac_signature_encoding,
                    prefix=self.vapi_webhook_hmac_signature_prefix,
                    url=self.vapi_webhook_url or "",
                )
            )
        standard = [key for key in (self.standard_webhooks_secret, self.standard_webhooks_secret_previous) if key]
        if standard:
            found.append(standard_webhooks(tuple(_from_base64(key) for key in standard)))
        return tuple(found)
