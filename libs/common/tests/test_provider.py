import orjson
import pytest

from boostedcalls.common.provider import answer_for


def answer(**message):
    return orjson.loads(answer_for(orjson.dumps({"message": message})))


SHAPES = {
    "published schema": {"id": "c1", "type": "function", "function": {"name": "book", "arguments": '{"day":"1"}'}},
    "events page": {"id": "c1", "name": "book", "parameters": {"day": "1"}},
    "tools page": {"id": "c1", "name": "book", "arguments": {"day": "1"}},
    "captured": {"id": "c1", "type": "function", "function": {"name": "book", "arguments": {"day": "1"}}},
}
NO_BOOK = {"toolCallId": "c1", "name": "book", "error": "No tool named book is available."}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_tool_call_of_every_known_shape_gets_an_error_of_its_own(shape):
    assert answer(type="tool-calls", toolCallList=[shape]) == {"results": [NO_BOOK]}


@pytest.mark.parametrize(
    "members",
    [
        {"toolCalls": [SHAPES["captured"]]},
        {"toolWithToolCallList": [{"type": "function", "toolCall": SHAPES["events page"]}]},
        {"toolCallList": [SHAPES["captured"]], "toolCalls": [SHAPES["captured"]]},
    ],
)
def test_tool_calls_are_found_under_every_known_name_and_answered_once(members):
    assert answer(type="tool-calls", **members) == {"results": [NO_BOOK]}


def test_results_are_one_for_each_id_in_order():
    calls = [{"id": f"c{number}", "name": f"tool{number}"} for number in (3, 1, 2)]
    assert [result["toolCallId"] for result in answer(type="tool-calls", toolCallList=calls)["results"]] == [
        "c3",
        "c1",
        "c2",
    ]


@pytest.mark.parametrize("name", ["a\nb", "a\r\n b", "a\u2028b", "a\tb"])
def test_answers_stay_on_one_line(name):
    [result] = answer(type="tool-calls", toolCallList=[{"id": "c1", "name": name}])["results"]
    assert result["error"] == "No tool named a b is available."


@pytest.mark.parametrize("items", [None, "x", {}, [], [None], ["x"], [7], [{}], [{"id": 7}], [{"name": "x"}]])
def test_tool_calls_without_an_id_get_no_results(items):
    assert answer(type="tool-calls", toolCallList=items) == {"results": []}


@pytest.mark.parametrize("name", [None, "", "  ", 7, [], {}])
def test_tool_call_without_a_name_is_answered_all_the_same(name):
    [result] = answer(type="tool-calls", toolCallList=[{"id": "c1", "name": name}])["results"]
    assert result["error"] == "No tool named unknown is available."


def test_legacy_function_call_is_answered_in_its_own_form():
    assert answer(type="function-call", functionCall={"name": "book", "parameters": {}}) == {
        "result": "No tool named book is available."
    }
    assert answer(type="function-call", toolCallList=[SHAPES["captured"]]) == {"results": [NO_BOOK]}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("knowledge-base-request", {"documents": []}),
        ("campaign.predial", {"eligible": False}),
        ("transfer-destination-request", {"error": "No transfer destination is available."}),
        ("handoff-destination-request", {"error": "No handoff destination is available."}),
        ("status-update", {"ok": True}),
        ("something-new", {"ok": True}),
    ],
)
def test_each_type_is_answered_in_the_shape_that_the_provider_expects(kind, expected):
    assert answer(type=kind) == expected


def test_incoming_call_is_declined_with_words_to_speak():
    assert "cannot take" in answer(type="assistant-request")["error"]


def test_endpointing_answer_lies_within_the_providers_limits():
    assert 0 <= answer(type="call.endpointing.request")["timeoutSeconds"] <= 15


def test_voice_request_gets_silence_and_not_json():
    assert answer_for(b'{"message":{"type":"voice-request","text":"hi","sampleRate":16000}}') == b""


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff", b"[]", b"7", b'{"message": 7}', b'{"message": {"type": ["tool-calls"]}}', b"[" * 100_000],
)
def test_bytes_that_are_no_message_are_answered_with_ok(body):
    assert answer_for(body) == b'{"ok":true}'


def test_half_an_emoji_does_not_hide_what_is_asked():
    body = b'{"message":{"type":"tool-calls","toolCallList":[{"id":"c1","name":"book \\ud83d"}]}}'
    assert orjson.loads(answer_for(body))["results"][0]["toolCallId"] == "c1"
