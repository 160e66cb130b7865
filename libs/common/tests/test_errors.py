import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from boostedcalls.common.errors import CODES, ServiceError, parse_problem, problem, validation_problem
from boostedcalls.common.messages.calls import CreateCall
from boostedcalls.common.messages.contacts import ContactWrite


@pytest.mark.parametrize("code", CODES)
def test_problem_of_every_code_survives_the_round_trip(code):
    made = problem(code, "why", errors=[{"field": "name", "message": "is bad"}], retry_after=3)
    made.error_id = "e1"
    found = parse_problem(made.to_json("r1"), made.status, 3)
    assert vars(found) == vars(made)


def test_problem_has_the_members_of_rfc_9457_and_ours():
    assert problem("call_not_found").to_dict("r1") == {
        "type": "/problems/call_not_found",
        "title": "No such call",
        "status": 404,
        "detail": "No such call",
        "code": "call_not_found",
        "request_id": "r1",
    }


def test_unknown_code_is_a_mistake_of_ours():
    with pytest.raises(KeyError):
        problem("no_such_code")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"{}", b'{"code":"x"}', b"\xff", b'"text"', b"7"])
def test_body_that_is_no_problem_becomes_an_internal_error(body):
    assert parse_problem(body, 404).code == "internal_error"


@given(st.binary(max_size=200), st.integers(400, 599))
def test_any_body_becomes_a_service_error(body, status):
    assert isinstance(parse_problem(body, status), ServiceError)


def faults(model: type[BaseModel], body: bytes) -> ServiceError:
    with pytest.raises(ValidationError) as caught:
        model.model_validate_json(body)
    return validation_problem(caught.value.errors())


def test_each_wrong_member_is_named_with_its_path():
    error = faults(ContactWrite, b'{"name":"","phone":"+12025550100","email":"no","x":1}')
    assert (error.status, error.code) == (422, "validation_failed")
    assert [fault["field"] for fault in error.errors] == ["name", "email", "x"]


def test_body_that_is_no_object_is_named_body():
    assert [fault["field"] for fault in faults(ContactWrite, b"[]").errors] == ["body"]


def test_message_of_our_own_checks_is_plain():
    [fault] = faults(ContactWrite, b'{"name":"a\\u0000","phone":"+12025550100"}').errors
    assert fault == {"field": "name", "message": "must not contain the NUL character"}


def test_member_inside_a_list_is_named_by_its_place():
    error = faults(CreateCall, b'{"contact_id":"019ab4c2-7d1e-7c43-9f55-8c2f4f0a9d31","call_goals":["a",{"x":1}]}')
    assert all(fault["field"].startswith("call_goals.1") for fault in error.errors)
