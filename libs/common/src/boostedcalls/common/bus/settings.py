"""How a process finds NATS, and as whom it logs in."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr

from boostedcalls.common.settings import Settings

ADMIN = "admin"


_MIN_PASSWORD = 16


def _strong(value: SecretStr) -> SecretStr:
    if len(value.get_secret_value()) < _MIN_PASSWORD:
        raise ValueError(f"needs at least {_MIN_PASSWORD} characters; make one with: openssl rand -hex 16")
    return value


NatsPassword = Annotated[SecretStr, AfterValidator(_strong)]


class NatsSettings(Settings):
    """`nats_url`: one or more addresses with commas between them. A process logs in under its own name with
    `nats_<name>_password`, a field of its own subclass; credentials in the address go before it."""

    nats_url: SecretStr = SecretStr("nats://127.0.0.1:4222")
    nats_stream_replicas: int = Field(1, ge=1, le=5)
    nats_atomic_batches: bool = True

    def servers(self) -> list[str]:
        return self.nats_url.get_secret_value().split(",")

    def credentials(self, name: str) -> dict[str, str]:
        """What nats-py is to be told beside the address: nothing where that says it all."""
        password: SecretStr | None = getattr(self, f"nats_{name}_password", None)
        if password is None or any("@" in server for server in self.servers()):
            return {}
        return {"user": name, "password": password.get_secret_value()}

    def administers(self, name: str) -> bool:
        """Whether the process may make streams: as the administrator, or where the operator's NATS has but one user for
        everything. deploy/nats.conf gives no service that right."""
        return name == ADMIN or not self.credentials(name)


class AdminSettings(NatsSettings):
    nats_admin_password: NatsPassword | None = None
