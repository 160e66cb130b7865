"""The simulator's settings. It needs no server of ours, so there is nothing here but its own."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr

from boostedcalls.common.settings import Names, Settings


class SimulatorSettings(Settings):
    simulator_host: str = "127.0.0.1"
    simulator_port: int = Field(default=8090, ge=0, le=65535)
    """0 takes any free port."""
    simulator_data: Path = Path(".run/simulator")
    """The folder of `dials.jsonl`, `calls.jsonl` and `webhooks.jsonl`."""
    simulator_speed: float = Field(default=1.0, gt=0, le=100)
    """Every delay is multiplied by this: at 1.0 a call takes about two seconds, at 0.2 it is five times faster."""
    simulator_list_lag: float = Field(default=0, ge=0)
    """Seconds for which a new call is missing from `GET /call`."""
    simulator_api_key: SecretStr = SecretStr("")
    """Empty: any Bearer will do."""
    simulator_http_hosts: Names = ()
    """Hosts besides loopback that may be given as plain http server URLs (the gateway in a container network)."""
    simulator_keep: int = Field(default=10_000, ge=1)
    """Calls kept in memory; beyond that the oldest ended ones are forgotten."""
