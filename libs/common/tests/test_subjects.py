import pytest
from hypothesis import given
from hypothesis import strategies as st

from boostedcalls.common import subjects

tokens = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
HOSTILE = ["", ".", "a.b", "*", ">", "a b", "a\r\nPUB x 0\r\n", "\x00", "ü", "x" * 65, "a\n", "\u2028", "$JS", "a\t"]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_no_token(text):
    with pytest.raises(ValueError, match="not a subject token"):
        subjects.token(text)


@given(st.text())
def test_any_text_becomes_a_token_by_slug(text):
    assert subjects.token(subjects.slug(text))


@given(st.text())
def test_any_text_is_a_token_or_refused(text):
    try:
        found = subjects.token(text)
    except ValueError:
        return
    assert found == text
    assert not set(text) & set(". *>\r\n\t\x00")


@given(tokens, st.uuids(), st.uuids())
def test_object_event_survives_the_round_trip(what, user_id, object_id):
    for noun, build in (("call", subjects.call_event), ("contact", subjects.contact_event)):
        found = subjects.parse_object_event(build(what, user_id, object_id))
        assert found == subjects.ObjectEvent(noun, what, user_id, object_id)


@given(tokens, tokens | st.none())
def test_provider_event_survives_the_round_trip(kind, call_id):
    found_kind, found_call = subjects.parse_provider_event(subjects.provider_event(kind, call_id))
    assert found_kind == subjects.slug(kind)
    assert found_call == (None if call_id == subjects.NO_CALL else call_id)


@given(tokens.filter(lambda origin: origin != "replayed"), st.integers(0) | tokens)
def test_dead_letter_survives_the_round_trip(origin, mark):
    found = subjects.parse_dead_letter(subjects.dead_letter(origin, mark))
    assert found == (subjects.slug(origin), str(mark))


@given(st.integers(0))
def test_note_of_a_replay_survives_the_round_trip_and_is_no_dead_letter(sequence):
    note = subjects.replay_note(sequence)
    assert subjects.parse_replay_note(note) == sequence
    with pytest.raises(ValueError, match="not a dead letter"):
        subjects.parse_dead_letter(note)


@given(st.text(), st.text())
def test_provider_event_always_has_five_tokens_or_is_refused(kind, call_id):
    try:
        subject = subjects.provider_event(kind, call_id)
    except ValueError:
        return
    assert len(subject.split(".")) == 5
    assert subject.isascii()


@given(st.text() | st.lists(st.text(), max_size=8).map(".".join))
def test_foreign_subject_is_parsed_or_refused_with_a_value_error(subject):
    for parse in (
        subjects.parse_object_event,
        subjects.parse_provider_event,
        subjects.parse_dead_letter,
        subjects.parse_replay_note,
    ):
        try:
            parse(subject)
        except ValueError:
            continue


@pytest.mark.parametrize(
    "subject",
    [
        "bc.evt.call.created.not-a-uuid.x",
        "bc.evt.call.created.019ab4c2-7d1e-7c43-9f55-8c2f4f0a9d31",
        "bc.evt.provider.hang.x.y.z",
        "bc.svc.calls.create",
        "",
    ],
)
def test_subject_of_another_kind_is_refused(subject):
    with pytest.raises(ValueError, match=r".+"):
        subjects.parse_object_event(subject)


def test_type_with_dots_becomes_one_token():
    assert subjects.provider_event("assistant.started", None) == "bc.evt.provider.assistant-started.none"
    assert subjects.slug("...") == "unknown"
