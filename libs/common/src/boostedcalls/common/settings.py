"""Settings: environment first, then `.env`, then files in /run/secrets. Read once, in a process's `__main__`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, SecretStr, ValidationError
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

_SECRETS_DIR = Path("/run/secrets")
MIN_SECRET_BYTES = 32
_MIN_DISTINCT = 8
DEMO = "demo-only-"
"""How the secrets begin that docker-compose.yml brings along, for trying it out: everybody knows them."""


class Settings(BaseSettings):
    """Base of every service's settings: frozen, and deaf to variables it does not know."""

    model_config = SettingsConfigDict(
        env_file=".env",
        secrets_dir=_SECRETS_DIR if _SECRETS_DIR.is_dir() else None,
        extra="ignore",
        frozen=True,
        env_ignore_empty=True,
        populate_by_name=True,
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, dotenv_settings, file_secret_settings


def _split(value: Any) -> Any:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


Listed = NoDecode, BeforeValidator(_split)
"""What makes of a tuple one that is written `a,b`."""

Seconds = Annotated[tuple[float, ...], *Listed]
"""Growing steps in seconds, written `30,60,300`."""

Names = Annotated[tuple[str, ...], *Listed]
"""A list of words, written `a,b`."""


def weakness(secret: bytes, least: int = MIN_SECRET_BYTES) -> str | None:
    """What is wrong with a secret, which needs `least` bytes, with the command that makes a good one; None when nothing
    is."""
    if len(secret) < least:
        return f"needs at least {least} bytes; make one with: openssl rand -hex 32"
    if len(set(secret)) < _MIN_DISTINCT:
        return "is too easy to guess; make one with: openssl rand -hex 32"
    return None


def strong_secret(value: SecretStr) -> SecretStr:
    """Refuse a secret that is shorter than 32 bytes or nearly all the same. Raises ValueError."""
    if fault := weakness(value.get_secret_value().encode()):
        raise ValueError(fault)
    return value


def demo_secrets(settings: Settings) -> list[str]:
    """The variables whose value is, or holds, a secret of docker-compose.yml."""
    found = [name for name, value in settings if isinstance(value, SecretStr) and DEMO in value.get_secret_value()]
    return [name.upper() for name in found]


def load[T: Settings](cls: type[T]) -> T:
    """Read the settings, or say in one line what is wrong with them and leave with exit code 2."""
    try:
        return cls()
    except ValidationError as error:
        faults: list[str] = []
        for item in error.errors():
            field = cls.model_fields.get(str(item["loc"][0])) if item["loc"] else None
            alias = field.validation_alias if field else None
            name = (str(alias) if isinstance(alias, str) else str(item["loc"][0])) if item["loc"] else "settings"
            text = "is missing" if item["type"] == "missing" else item["msg"].removeprefix("Value error, ")
            if item["type"] == "missing" and name.lower().endswith("secret"):
                text += "; make one with: openssl rand -hex 32"
            faults.append(f"{name.upper()}: {text}")
        sys.stderr.write(f"cannot start: {'; '.join(faults)}\n")
        raise SystemExit(2) from None
