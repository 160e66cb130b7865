"""The services on a NATS cluster of three: what is stored is stored three times, and a leader's death stops nobody."""

import signal
from pathlib import Path

import nats
import pytest

from boostedcalls.devkit.cluster import nats_cluster
from boostedcalls.devkit.pytest_plugin import StackFactory
from boostedcalls.devkit.stack import EVERYTHING

from .conftest import SignUp, is_over

SERVICES = [part for part in EVERYTHING if part != "nats"]
STREAMS = ("PROVIDER_EVENTS", "CALL_EVENTS", "JOBS", "DLQ")


@pytest.mark.timeout(240)
async def test_calls_are_placed_and_reported_after_the_streams_leader_was_killed(
    tmp_path: Path, stack: StackFactory, fast: dict[str, str], sign_up: SignUp
) -> None:
    async with (
        nats_cluster(tmp_path / "nats") as cluster,
        stack(env={**fast, **cluster.env}, parts=SERVICES) as system,
    ):
        client = await nats.connect(cluster.url.split(","))
        replicas = {name: (await client.jetstream().stream_info(name)).config.num_replicas for name in STREAMS}
        await client.close()
        assert replicas == dict.fromkeys(STREAMS, 3)

        user = await sign_up(system.url)
        before = await user.place_call("00")
        request = {"contact_id": (await user.contact("00"))["id"]}
        leader = await cluster.leader("PROVIDER_EVENTS")
        assert leader is not None
        leader.child.signal(signal.SIGKILL)
        await leader.child.wait()
        # Two of three are enough. What was asked for in the moments without a leader, or while the gateway turned from
        # the dead server to another one, may have been refused.
        answer = await user.http.post("/api/calls/", json=request)
        while answer.status_code >= 500:
            answer = await user.http.post("/api/calls/", json=request)
        assert answer.status_code == 201, answer.text
        for call in (before, answer.json()):
            found = await user.wait_for(call, lambda found: is_over(found) and found["cost"] is not None)
            assert (found["status"], found["outcome"]) == ("completed", "success")
