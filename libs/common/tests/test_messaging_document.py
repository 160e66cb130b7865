"""docs/messaging.md and the code say the same."""

import re
from pathlib import Path

import pytest

import boostedcalls.common
from boostedcalls.common import asyncapi, events, messages, subjects
from boostedcalls.common.bus import connection, streams
from boostedcalls.common.errors import CODES
from boostedcalls.common.errors import problem as problem_of_code
from boostedcalls.common.messages.webhooks import INGEST_WEBHOOK, INGEST_WEBHOOKS

DOCS = Path(__file__).parents[3] / "docs"
TEXT = (DOCS / "messaging.md").read_text()
SOURCES = "".join(path.read_text() for path in Path(boostedcalls.common.__path__[0]).rglob("*.py"))
HEADERS = {value for name, value in vars(connection).items() if name.isupper() and isinstance(value, str)}


def table(first: str, second: str) -> list[list[str]]:
    """The rows of the table whose first two columns have these names."""
    _, _, rest = TEXT.partition(f"| {first} | {second} |")
    assert rest, f"no table of {first} and {second}"
    rows = []
    for line in rest.splitlines()[2:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def code(*words: str) -> str:
    return ", ".join(f"`{word}`" for word in words)


def test_requests_are_exactly_those_of_the_code():
    expected = [
        [code(rpc.subject), code(rpc.request.__name__), code(rpc.response.__name__), code(*rpc.errors) or "none"]
        for rpc in messages.ALL
    ]
    assert table("subject", "request") == [
        *expected,
        [code(INGEST_WEBHOOK), "the provider's raw body", "the body to send back", "none"],
        [code(INGEST_WEBHOOKS), "several raw bodies", "an answer for each", "none"],
    ]


def test_error_codes_are_exactly_those_of_the_code():
    assert table("code", "status") == [[code(name), str(status), title] for name, (status, title) in CODES.items()]


def test_events_are_exactly_those_of_the_code():
    assert table("type", "subject") == [
        [code(kind.type), code(kind.subject), code(kind.stream), kind.source, code(kind.data.__name__)]
        for kind in events.ALL
    ]


@pytest.mark.parametrize("data", dict.fromkeys(kind.data for kind in events.ALL), ids=lambda data: data.__name__)
def test_members_of_an_event_are_exactly_those_of_its_model(data):
    section = TEXT.partition(f"### {data.__name__}\n")[2].partition("\n#")[0]
    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == list(data.model_fields)


def test_streams_are_exactly_those_of_the_code():
    retention = {"limits": "limits", "workqueue": "work queue"}
    full = {"new": "refuses new", "old": "drops old"}
    day = 24 * 3600
    assert table("stream", "subjects") == [
        [
            code(name),
            code(*config.subjects),
            retention[config.retention.value],
            full[config.discard.value],
            f"{config.max_age / day:g} days" if config.max_age >= day else f"{config.max_age / 60:g} min",
            f"{config.duplicate_window / 60:g} min",
        ]
        for name, config in streams.STREAMS.items()
    ]
    assert {config.storage.value for config in streams.STREAMS.values()} == {"file"}


def test_consumers_are_exactly_those_of_the_code():
    assert table("stream", "consumer") == [
        [code(consumer.stream), code(consumer.durable), str(consumer.batch), f"{consumer.ack_wait:g} s"]
        for consumer in (*streams.CONSUMERS, streams.SUBSCRIBER)
    ]


def test_every_header_of_the_code_is_in_the_document():
    written = set(re.findall(r'"((?:Bc|ce|Nats)-[A-Za-z-]*[a-z])"', SOURCES)) | HEADERS
    assert {"Bc-User", "Bc-Reason", "ce-id", "Nats-Msg-Id", "traceparent"} <= written
    assert {header for header in written if not re.search(rf"^\| (`[\w-]+`, )*`{header}`[ ,]", TEXT, re.M)} == set()


def test_every_header_of_the_document_is_in_the_code():
    named = re.findall(r"`((?:Bc|ce|Nats)-[A-Za-z-]+)`", TEXT)
    assert {header for header in named if f'"{header}"' not in SOURCES} == set()


def stands_for(written: str, known: str) -> bool:
    """Whether a subject in the document, which may have wildcards and placeholders, is one of the code's."""
    a, b = written.split("."), known.split(".")
    return len(a) == len(b) and all(x == y or x[0] in "*<" for x, y in zip(a, b, strict=True))


def test_every_subject_of_the_document_is_in_the_code():
    known = {
        *(rpc.subject for rpc in messages.ALL),
        INGEST_WEBHOOK,
        INGEST_WEBHOOKS,
        *(kind.subject for kind in events.ALL),
        *(subject for config in streams.STREAMS.values() for subject in config.subjects),
        *re.findall(r"`(bc\.[^`]+)`", subjects.__doc__),
    }
    named = set(re.findall(r"`(bc\.[^`]+)`", TEXT))
    assert {subject for subject in named if not any(stands_for(subject, other) for other in known)} == set()


def test_every_stream_and_code_of_the_document_is_in_the_code():
    assert set(re.findall(r"`([A-Z]{2,}(?:_EVENTS)?)`", TEXT)) == set(streams.STREAMS)
    members = {member for kind in events.ALL for member in kind.data.model_fields}
    problem = problem_of_code("not_found").to_dict("id") | {"error_id": ""}
    columns = {row[0].strip("`") for row in table("column", "type")}
    others = {"next_cursor", "max_payload", "idempotency_key", "allow_repeat"}
    named = set(re.findall(r"`([a-z]+(?:_[a-z]+)+)`", TEXT))
    assert named - members - set(problem) - columns - others <= set(CODES)


def test_outbox_columns_are_those_that_the_code_writes_and_reads():
    columns = [row[0].strip("`") for row in table("column", "type")]
    assert columns == ["id", "event_id", "type", "subject", "data", "traceparent", "at"]


def test_asyncapi_document_is_up_to_date():
    assert (DOCS / "asyncapi.json").read_bytes() == asyncapi.render(), "run: python -m boostedcalls.common.asyncapi"


def test_asyncapi_document_names_every_subject_and_every_event():
    document = asyncapi.build()
    addresses = {channel["address"] for channel in document["channels"].values()}
    assert {rpc.subject for rpc in messages.ALL} | {INGEST_WEBHOOK, INGEST_WEBHOOKS} <= addresses
    assert len([operation for operation in document["operations"].values() if operation["action"] == "send"]) == len(
        events.ALL
    )


def test_every_reference_in_the_asyncapi_document_leads_somewhere():
    document = asyncapi.build()

    def references(node):
        if isinstance(node, dict):
            if isinstance(node.get("$ref"), str):
                yield node["$ref"]
            for value in node.values():
                yield from references(value)
        elif isinstance(node, list):
            for value in node:
                yield from references(value)

    for reference in references(document):
        found = document
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]
