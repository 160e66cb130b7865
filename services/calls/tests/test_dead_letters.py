"""Dead letters, listed and sent again: on a real stream, and by the command as it is typed."""

import asyncio
import re
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
import pytest
import pytest_asyncio
from nats.aio.msg import Msg

from boostedcalls.calls import arguments, dead_letters
from boostedcalls.calls.dead_letters import Filters, Letter
from boostedcalls.common.bus import ensure_streams
from boostedcalls.common.bus.consume import MAX_DELIVERIES
from boostedcalls.common.bus.streams import CALLS_PROVIDER, DLQ, JOBS, PROVIDER_EVENTS
from boostedcalls.common.context import new_id
from boostedcalls.common.messages.webhooks import INGEST_WEBHOOK

from .commands import Commands
from .conftest import NO_TRACE, World

ENDED = {"status": "ended", "endedReason": "customer-busy", "timestamp": 1795343438410}


@pytest_asyncio.fixture(autouse=True)
async def empty_streams(world: World) -> None:
    for name in (PROVIDER_EVENTS, DLQ, JOBS):
        await world.bus.jetstream.purge_stream(name)


async def _store(world: World, subject: str, data: bytes, headers: dict[str, str] | None = None) -> int:
    return await world.bus.publish(
        subject, data, stream=PROVIDER_EVENTS, message_id=str(new_id()), headers=headers or {}, timeout=5
    )


async def _letter(world: World, origin: str = PROVIDER_EVENTS, data: bytes = b"{}", **headers: str) -> int:
    """A dead letter without a story; `call` is the provider's call id in its subject."""
    call = headers.pop("call", "x")
    about = {"Bc-Reason": "Poison: made up"}
    if origin == "webhook":
        about |= {"Bc-Origin-Subject": INGEST_WEBHOOK, "traceparent": NO_TRACE}
    else:
        subject = "bc.job.sync" if origin == JOBS else f"bc.evt.provider.hang.{call}"
        about |= {"Bc-Origin-Subject": subject, "Bc-Origin-Stream": origin, "Bc-Origin-Sequence": "7"}
        about |= {"Bc-Deliveries": "3"}
    return await world.bus.publish(
        f"bc.dlq.{origin}.{new_id().hex}",
        data,
        stream=DLQ,
        message_id=str(new_id()),
        headers=about | headers,
        timeout=5,
    )


async def _letters(world: World, filters: Filters | None = None, *names: str) -> list[Letter]:
    return [letter async for letter in dead_letters.letters(world.bus, filters or Filters(), names)]


async def _replay(world: World, filters: Filters | None = None, rate: float = 1000, **options: Any) -> int:
    return await dead_letters.replay(world.bus, filters or Filters(), (), rate=rate, **options)


async def _messages(world: World, name: str) -> int:
    return (await world.bus.jetstream.stream_info(name)).state.messages


async def _refusing(world: World, row: Any) -> None:
    """A database that refuses to change this call."""
    await world.admin.execute(
        "CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'refused'; END $$"
    )
    await world.admin.execute(
        f"CREATE TRIGGER refuse BEFORE UPDATE ON calls.calls FOR EACH ROW WHEN (OLD.id = '{row['id']}')"
        " EXECUTE FUNCTION public.refuse()"
    )


async def test_a_letter_whose_cause_is_gone_is_applied_by_its_replay(world: World, user_id: UUID) -> None:
    row = await world.insert(user_id)
    provider_call_id = str(new_id())
    carried = {"id": provider_call_id, "assistantOverrides": {"metadata": world.metadata(row)}}
    await _refusing(world, row)
    await world.report("status-update", provider_call_id, {**ENDED, "call": carried})
    (original,) = await world.stream(PROVIDER_EVENTS)
    handle = await world.bus.jetstream.pull_subscribe_bind(durable=CALLS_PROVIDER.durable, stream=PROVIDER_EVENTS)
    for _ in range(MAX_DELIVERIES - 1):
        (message,) = await handle.fetch(1, timeout=5)
        await message.nak()
    await handle.unsubscribe()
    world.consume()
    await world.quiet()
    (letter,) = await _letters(world)
    assert (letter.origin, letter.deliveries) == (PROVIDER_EVENTS, str(MAX_DELIVERIES))
    assert "refused" in letter.reason
    assert (await world.row(row["id"]))["status"] == "pending"

    await world.admin.execute("DROP TRIGGER refuse ON calls.calls")
    assert await _replay(world) == 0
    await world.quiet()
    assert (await world.row(row["id"]))["status"] == "busy"
    assert await world.rollups(user_id) == await world.recount(user_id)
    _, again = await world.stream(PROVIDER_EVENTS)
    assert (again["subject"], again["data"]) == (original["subject"], original["data"])
    kept = {name: value for name, value in original["headers"].items() if name.startswith("ce-")}
    assert {"ce-id", "ce-type", "ce-time"} <= kept.keys()
    assert {name: value for name, value in again["headers"].items() if name.startswith("ce-")} == kept
    assert again["headers"]["Bc-Replay-Of"] == str(letter.sequence)
    assert not {name for name in again["headers"] if name.startswith(("Bc-Origin", "Bc-Reason", "Bc-Deliveries"))}


async def test_a_replay_soon_after_the_original_is_not_swallowed_as_a_repeat(world: World) -> None:
    message_id = str(new_id())
    await world.bus.publish(
        "bc.evt.provider.hang.x", b"{}", stream=PROVIDER_EVENTS, message_id=message_id, headers={}, timeout=5
    )
    await _letter(world, **{"ce-id": message_id})
    assert await _replay(world) == 0
    assert await _messages(world, PROVIDER_EVENTS) == 2


async def test_what_was_replayed_is_left_out_the_next_time_unless_it_is_wanted_again(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    await _letter(world)
    assert await _replay(world) == 0
    assert await _replay(world) == 0
    assert await _messages(world, PROVIDER_EVENTS) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "0 replayed, 1 skipped, 0 failed"
    assert await _replay(world, again=True) == 0
    assert await _messages(world, PROVIDER_EVENTS) == 2


async def test_a_replay_leaves_a_note_that_the_list_shows_and_does_not_count(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = await _letter(world), await _letter(world)
    before = datetime.now(UTC)
    assert await _replay(world, Filters(sequences=((second, second),))) == 0
    found = await _letters(world)
    assert [letter.sequence for letter in found] == [first, second]
    assert (found[0].replayed_at, found[0].result) == (None, None)
    assert found[1].result == "replayed"
    assert found[1].replayed_at
    assert found[1].replayed_at > before - timedelta(seconds=5)
    note = (await world.stream(DLQ))[-1]
    stored = (await world.bus.jetstream.stream_info(PROVIDER_EVENTS)).state.last_seq
    assert note["subject"] == f"bc.dlq.replayed.{second}"
    assert note["headers"]["Bc-Replay-Sequence"] == str(stored)
    assert note["headers"]["Bc-Replay-Result"] == "replayed"
    assert UUID(note["headers"]["Bc-Replay-Run"])
    capsys.readouterr()
    assert await dead_letters.print_letters(world.bus, Filters(), (), as_json=False) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "2 listed"
    assert "(replayed 20" not in lines[0]
    assert "(replayed 20" in lines[1]
    assert await _replay(world) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "1 replayed, 1 skipped, 0 failed"


async def test_a_dry_run_says_what_would_be_done_and_changes_nothing(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    await _letter(world, call="one")
    await _letter(world, JOBS)
    assert await _replay(world, dry_run=True) == 0
    out = capsys.readouterr().out
    assert "bc.evt.provider.hang.one" in out
    assert out.splitlines()[-1] == "1 would be replayed, 1 skipped, 0 failed"
    assert (await _messages(world, PROVIDER_EVENTS), await _messages(world, DLQ)) == (0, 2)


async def test_sync_jobs_are_not_replayed_and_the_line_says_why(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    await _letter(world, JOBS)
    assert await _replay(world) == 0
    assert "its calls are due again" in capsys.readouterr().out
    assert await _messages(world, JOBS) == 0


async def test_a_webhook_goes_through_the_webhooks_service_once_more_with_the_time_of_its_coming(world: World) -> None:
    asked: list[Msg] = []

    async def webhooks(message: Msg) -> None:
        asked.append(message)
        await message.respond(b'{"ok":true}')

    service = await world.bus.client.subscribe(INGEST_WEBHOOK, cb=webhooks)
    request_id = str(new_id())
    await _letter(world, "webhook", b"as it came", **{"Bc-Request-Id": request_id})
    await _letter(world, "webhook", b"drained late", **{"Bc-Received-At": "2026-11-20T08:00:00Z"})
    assert await _replay(world) == 0
    await service.unsubscribe()
    letters = await _letters(world)
    assert [message.data for message in asked] == [b"as it came", b"drained late"]
    headers = [message.headers or {} for message in asked]
    assert headers[0]["Bc-Request-Id"] == request_id
    assert headers[0]["traceparent"].split("-")[1] == NO_TRACE.split("-")[1]
    assert abs(datetime.fromisoformat(headers[0]["Bc-Received-At"]) - letters[0].at) < timedelta(milliseconds=1)
    assert headers[1]["Bc-Received-At"] == "2026-11-20T08:00:00Z"
    assert [letter.result for letter in letters] == ["replayed", "replayed"]


async def test_while_the_webhooks_service_is_away_a_replay_stops_and_says_so(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    await _letter(world, "webhook")
    await _letter(world)
    assert await _replay(world) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "0 replayed, 0 skipped, 1 failed; stopped early: the webhooks service: unavailable"
    assert await _messages(world, DLQ) == 2


async def test_a_stream_that_takes_nothing_stops_a_replay_and_the_next_one_does_it(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "_SECONDS", 0.5)
    await _letter(world)
    config = (await world.bus.jetstream.stream_info(PROVIDER_EVENTS)).config
    await world.bus.jetstream.update_stream(config.evolve(max_msg_size=1))
    assert await _replay(world) == 1
    assert "0 replayed, 0 skipped, 1 failed; stopped early: PROVIDER_EVENTS" in capsys.readouterr().out
    await world.bus.jetstream.update_stream(config)
    assert await _replay(world) == 0
    assert await _messages(world, PROVIDER_EVENTS) == 1


async def test_a_replay_that_is_told_to_stop_ends_between_two_letters(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(3):
        await _letter(world)
    asyncio.get_running_loop().call_later(0.2, world.runtime.stop)
    assert await _replay(world, rate=2) == 1
    out = capsys.readouterr().out.splitlines()[-1]
    done = int(out.split()[0])
    assert done < 3
    assert out.endswith("stopped early: told to stop")
    assert await _messages(world, PROVIDER_EVENTS) == done


async def test_a_message_that_fails_again_is_a_letter_of_its_own(world: World) -> None:
    await _store(world, "bc.evt.provider.hang.x", b"{nonsense")
    world.consume()
    await world.quiet()
    assert await _replay(world) == 0
    await world.quiet()
    first, second = await _letters(world)
    assert (first.result, second.result) == ("replayed", None)
    assert second.reason == first.reason
    assert int(second.origin_sequence or 0) == int(first.origin_sequence or 0) + 1


async def test_letters_are_chosen_by_time_place_origin_and_call(world: World, user_id: UUID) -> None:
    row = await world.insert(user_id)
    one = await _letter(world, call="one")
    await asyncio.sleep(0.01)
    middle = datetime.now(UTC)
    await asyncio.sleep(0.01)
    two = await _letter(world, call="two")
    hook = await _letter(world, "webhook", b'{"message":{"call":{"id":"one"}}}')
    job = await _letter(world, JOBS, orjson.dumps({"call_ids": [str(row["id"])]}))

    async def places(filters: Filters, *names: str) -> list[int]:
        return [letter.sequence for letter in await _letters(world, filters, *names)]

    assert await places(Filters()) == [one, two, hook, job]
    assert await places(Filters(since=middle)) == [two, hook, job]
    assert await places(Filters(until=middle)) == [one]
    assert await places(Filters(sequences=((one, two), (job, job)))) == [one, two, job]
    assert await places(Filters(sequences=((two, hook),), since=middle, origin="webhook")) == [hook]
    assert await places(Filters(origin=PROVIDER_EVENTS)) == [one, two]
    assert await places(Filters(), "one") == [one, hook]
    assert await places(Filters(), "three") == []
    await world.admin.execute("UPDATE calls.calls SET provider_call_id = 'two' WHERE id = $1", row["id"])
    assert await places(Filters(), *await dead_letters.names_of(world.deps.pool, row["id"])) == [two, job]


async def test_letters_from_before_their_subject_named_the_place_are_listed_and_replayed(world: World) -> None:
    headers = {"Bc-Reason": "old", "Bc-Origin-Stream": PROVIDER_EVENTS, "Bc-Origin-Sequence": "3"}
    headers |= {"Bc-Origin-Subject": "bc.evt.provider.hang.x", "Bc-Deliveries": "1"}
    await world.bus.publish(
        "bc.dlq.PROVIDER_EVENTS", b"{}", stream=DLQ, message_id=str(new_id()), headers=headers, timeout=5
    )
    (letter,) = await _letters(world)
    assert (letter.origin, letter.origin_sequence) == (PROVIDER_EVENTS, "3")
    assert await _replay(world) == 0
    assert await _messages(world, PROVIDER_EVENTS) == 1


async def test_the_list_shows_no_bodies_and_is_as_json_one_object_a_line(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    sequence = await _letter(world, data=b'{"number":"+12025550123"}', call="c1")
    hook = await _letter(world, "webhook", b"+12025550123")
    await dead_letters.print_letters(world.bus, Filters(), (), as_json=False)
    text = capsys.readouterr().out
    assert "+12025550123" not in text
    assert re.match(
        rf" *{sequence}  \S+Z  PROVIDER_EVENTS 7  tried 3x  bc.evt.provider.hang.c1  Poison: made up$",
        text.splitlines()[0],
    )
    assert re.match(rf" *{hook}  \S+Z  webhook  bc.svc.webhooks.ingest  Poison: made up$", text.splitlines()[1])
    await dead_letters.print_letters(world.bus, Filters(), (), as_json=True)
    captured = capsys.readouterr()
    first, second = [orjson.loads(line) for line in captured.out.splitlines()]
    assert captured.err == "2 listed\n"
    assert (first["sequence"], first["origin_sequence"], first["deliveries"]) == (sequence, 7, 3)
    assert (second["origin"], second["origin_sequence"], second["replayed_at"]) == ("webhook", None, None)


async def test_the_command_lists_and_replays_what_its_filters_name(
    world: World, user_id: UUID, commands: Commands
) -> None:
    row = await world.insert(user_id)
    await world.admin.execute("UPDATE calls.calls SET provider_call_id = 'mine' WHERE id = $1", row["id"])
    await _letter(world, call="mine")
    await _letter(world, call="other")
    code, out, err = await commands("dead-letters", "list")
    assert (code, out.splitlines()[-1], err) == (0, "2 listed", "")
    code, out, err = await commands("dead-letters", "replay", "--call", str(row["id"]), "--since", "1h")
    assert (code, out.splitlines()[-1], err) == (0, "1 replayed, 0 skipped, 0 failed", "")
    (sent,) = await world.stream(PROVIDER_EVENTS)
    assert sent["subject"] == "bc.evt.provider.hang.mine"
    code, out, err = await commands("dead-letters", "list", "--origin", "webhook", "--json")
    assert (code, out, err) == (0, "", "0 listed")


async def test_without_its_stream_the_command_says_so_in_one_line(world: World, commands: Commands) -> None:
    await world.bus.jetstream.delete_stream(DLQ)
    try:
        code, out, err = await commands("dead-letters", "list")
        assert (code, out) == (1, "")
        assert re.fullmatch(r"calls-dead-letters: DLQ: .*stream not found.*", err)
    finally:
        await ensure_streams(world.bus, DLQ)


async def test_wrong_arguments_are_one_line_and_exit_code_2(commands: Commands) -> None:
    code, out, err = await commands("dead-letters", "replay")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "--all" in err


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        (["dead-letters"], "list|replay"),
        (["dead-letters", "burn"], "burn"),
        (["dead-letters", "list", "--since", "yesterday"], "'yesterday'"),
        (["dead-letters", "list", "--until", "99999999999d"], "'99999999999d'"),
        (["dead-letters", "list", "--sequence", "9-3"], "'9-3'"),
        (["dead-letters", "list", "--sequence", "0"], "'0'"),
        (["dead-letters", "list", "--origin", "moon"], "moon"),
        (["dead-letters", "replay", "--all", "--rate", "0"], "'0'"),
        (["dead-letters", "replay", "--all", "--rate", "nan"], "'nan'"),
        (["dead-letters", "replay", "--dry"], "--dry"),
        (["audit", "--repair"], "--repair"),
    ],
)
def test_a_wrong_argument_is_named(given: list[str], fault: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        arguments.read_arguments(given)
    captured = capsys.readouterr()
    assert (left.value.code, captured.out) == (2, "")
    assert len(captured.err.splitlines()) == 1
    assert fault in captured.err


def test_times_and_places_are_read_as_they_are_written() -> None:
    now = datetime.now(UTC)
    assert timedelta(minutes=119) < now - arguments.moment("2h") < timedelta(minutes=121)
    assert arguments.moment("2026-11-22T10:30:00Z") == datetime(2026, 11, 22, 10, 30, tzinfo=UTC)
    assert arguments.moment("2026-11-22T12:30:00+02:00") == datetime(2026, 11, 22, 10, 30, tzinfo=UTC)
    assert arguments.moment("2026-11-22") == datetime(2026, 11, 22, tzinfo=UTC)
    assert arguments.places("3, 12-20") == ((3, 3), (12, 20))
