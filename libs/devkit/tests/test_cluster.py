"""The NATS cluster on loopback: three nodes are one, and one may fail."""

import asyncio
import gc
import signal

import nats
import pytest
from nats.js.api import StreamConfig

from boostedcalls.devkit.cluster import NatsCluster, nats_cluster

# nats-py forgets to close the socket of an attempt to connect that a frozen node does not answer.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


async def publish(client, subject: str, text: str) -> None:
    """As our services do: again with the same id until it is confirmed."""
    async with asyncio.timeout(60):
        while True:
            try:
                await client.jetstream().publish(subject, text.encode(), timeout=1, headers={"Nats-Msg-Id": text})
                return
            except Exception:
                await asyncio.sleep(0.1)


async def leader(cluster: NatsCluster, stream: str | None):
    async with asyncio.timeout(60):
        while (found := await cluster.leader(stream)) is None:  # noqa: ASYNC110 - the node elected rings no bell
            await asyncio.sleep(0.1)
    return found


@pytest.fixture
async def cluster(tmp_path):
    async with nats_cluster(tmp_path / "cluster") as cluster:
        yield cluster


@pytest.fixture
async def client(cluster):
    async def ignore(_: Exception) -> None:
        """By default they are logged, and pytest keeps them."""

    client = await nats.connect(
        cluster.url.split(","), max_reconnect_attempts=-1, reconnect_time_wait=0.1, ping_interval=2, error_cb=ignore
    )
    yield client
    await client.close()
    # What was forgotten is found here, and not in the middle of another test.
    del client
    gc.collect()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_what_was_confirmed_outlives_the_end_or_the_freezing_of_the_streams_leader(cluster, client, number):
    await client.jetstream().add_stream(StreamConfig(name="KEPT", subjects=["kept"], num_replicas=3))
    await publish(client, "kept", "before")
    first = await leader(cluster, "KEPT")
    first.child.signal(number)
    await publish(client, "kept", "meanwhile")
    if number == signal.SIGKILL:
        await first.child.wait()
        await first.start()
    else:
        first.child.signal(signal.SIGCONT)
    await publish(client, "kept", "after")
    assert (await leader(cluster, "KEPT")).child.running
    info = await client.jetstream().stream_info("KEPT")
    assert info.state.messages == 3


async def test_it_stands_up_again_after_kill_9_of_all_nodes(cluster, client):
    await client.jetstream().add_stream(StreamConfig(name="KEPT", subjects=["kept"], num_replicas=3))
    await publish(client, "kept", "before")
    for server in cluster.servers:
        server.child.signal(signal.SIGKILL)
    for server in cluster.servers:
        await server.child.wait()
    await cluster.start()
    await publish(client, "kept", "after")
    assert (await client.jetstream().stream_info("KEPT")).state.messages == 2
    assert await leader(cluster, None) in cluster.servers


async def test_a_stream_without_a_leader_is_said_to_have_none(cluster):
    assert await cluster.leader("UNKNOWN") is None


async def test_nobody_joins_the_cluster_or_connects_without_the_password(cluster):
    for port in (cluster.servers[0].port, cluster.route_ports[0]):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b'CONNECT {"verbose":false,"cluster":"boostedcalls","name":"stranger"}\r\nPING\r\n')
        assert b"Authorization Violation" in await asyncio.wait_for(reader.read(), 10)
        writer.close()
        await writer.wait_closed()
