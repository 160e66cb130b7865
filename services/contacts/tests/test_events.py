import orjson

from boostedcalls.common.context import caller
from boostedcalls.common.messages.contacts import CREATE_CONTACT, DELETE_CONTACT, REPLACE_CONTACT, UPDATE_CONTACT


async def test_each_change_of_a_contact_becomes_one_event_in_order(user, events_of):
    made = await user.ask(CREATE_CONTACT, name="Jane", phone="+1987654321")
    await user.ask(UPDATE_CONTACT, contact_id=made.id, changes={"name": "x"})
    await user.ask(REPLACE_CONTACT, contact_id=made.id, contact={"name": "y", "phone": "+1987654321"})
    await user.ask(DELETE_CONTACT, contact_id=made.id)
    events = await events_of(user.id)
    assert [subject for subject, _, _ in events] == [
        f"bc.evt.contact.{what}.{user.id}.{made.id}" for what in ("created", "updated", "updated", "deleted")
    ]
    assert [headers["ce-type"] for _, headers, _ in events] == [
        f"io.boostedcalls.contact.v1.{what}" for what in ("created", "updated", "updated", "deleted")
    ]
    for subject, headers, data in events:
        assert (headers["ce-specversion"], headers["ce-source"], headers["ce-subject"]) == ("1.0", "/contacts", subject)
        assert orjson.loads(data) == {"contact_id": str(made.id), "user_id": str(user.id)}
    assert len({headers["ce-id"] for _, headers, _ in events}) == 4


async def test_event_carries_the_trace_of_its_request(user, events_of):
    trace = "0af7651916cd43dd8448eb211c80319c"
    who = caller(user.id, traceparent=f"00-{trace}-b7ad6b7169203331-01")
    body = orjson.dumps({"name": "Jane", "phone": "+1987654321"})
    await user.bus.request(CREATE_CONTACT.subject, body, who)
    [(_, headers, _)] = await events_of(user.id)
    assert headers["traceparent"].split("-")[1] == trace


async def test_write_that_changes_nothing_emits_no_event(user, events_of):
    made = await user.ask(CREATE_CONTACT, name="Jane", phone="+1987654321", metadata={"a": [1, {"b": None}]})
    for changes in ({}, {"region": "US"}, {"name": "Jane"}, {"metadata": {"a": [1, {"b": None}]}}):
        await user.ask(UPDATE_CONTACT, contact_id=made.id, changes=changes)
    same = {"name": "Jane", "phone": "+1987654321", "metadata": {"a": [1, {"b": None}]}}
    assert (await user.ask(REPLACE_CONTACT, contact_id=made.id, contact=same)).updated_at == made.updated_at
    assert len(await events_of(user.id)) == 1


async def test_events_written_while_nats_restarts_are_published_afterwards(user, events_of, nats_server, replicas):
    made = await user.ask(CREATE_CONTACT, name="Jane", phone="+1987654321")
    await events_of(user.id)
    await nats_server.stop()
    # As a request that had just committed when the server went away.
    await replicas.fetchval(
        "INSERT INTO contacts.outbox (event_id, type, subject, data, traceparent) VALUES"
        " (gen_random_uuid(), 'io.boostedcalls.contact.v1.updated', $1, '{}',"
        " '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00')",
        f"bc.evt.contact.updated.{user.id}.{made.id}",
    )
    await nats_server.start()
    assert len(await events_of(user.id)) == 2
