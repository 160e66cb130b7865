"""The one error that crosses a process boundary, and the table of its codes.

A ServiceError travels as an RFC 9457 problem document: on NATS as the reply's body, over HTTP as the response's.
`CODES` is the complete list of stable codes; `docs/messaging.md` repeats it and a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict

import orjson

from boostedcalls.common.context import new_id
from boostedcalls.common.logs import get_logger

log = get_logger(__name__)


class FieldError(TypedDict):
    """One member of a request that was refused: its path (`call_goals.0.name`) and why."""

    field: str
    message: str


CODES: dict[str, tuple[int, str]] = {
    "bad_request": (400, "The request is not well-formed HTTP"),
    "malformed_body": (400, "The body is not a JSON object"),
    "call_not_cancellable": (400, "The call can no longer be cancelled"),
    "token_invalid": (401, "The token is missing, wrong or expired"),
    "credentials_invalid": (401, "Wrong username or password"),
    "webhook_auth_failed": (401, "The webhook's secret or signature is wrong"),
    "not_found": (404, "There is nothing at this address"),
    "call_not_found": (404, "No such call"),
    "contact_not_found": (404, "No such contact"),
    "script_not_found": (404, "No such script"),
    "method_not_allowed": (405, "The address does not have this method"),
    "request_timeout": (408, "The request did not arrive in time"),
    "email_taken": (409, "There is already an account for this address"),
    "idempotency_key_in_use": (409, "The first request with this Idempotency-Key is still under way"),
    "payload_too_large": (413, "The body is too large"),
    "validation_failed": (422, "The request has the wrong shape"),
    "phone_invalid": (422, "The phone number cannot be read"),
    "idempotency_key_reused": (422, "The Idempotency-Key was used for another request"),
    "max_active_calls": (429, "Too many calls are active"),
    "call_rate_exceeded": (429, "Too many calls were placed within a minute"),
    "number_cooldown": (429, "This number was called a moment ago"),
    "rate_limited": (429, "Too many requests within a minute"),
    "too_many_tries": (429, "Too many tries: wait before the next one"),
    "headers_too_large": (431, "The headers are too large, or too many"),
    "internal_error": (500, "Something went wrong on our side"),
    "answer_too_large": (500, "The answer does not fit into a message: ask for fewer rows"),
    "provider_error": (502, "The voice provider refused"),
    "unavailable": (503, "A part of the service is not available"),
    "timeout": (504, "A part of the service did not answer in time"),
    "provider_timeout": (504, "The voice provider did not answer in time"),
}


class ServiceError(Exception):
    """An answer other than success: HTTP status, stable code, and what a person may read.

    `retry_after` is in seconds and only set where trying again makes sense; `instance` is the address of the object
    that the failed request left behind; `replayed` says that another request was answered so before.
    """

    def __init__(
        self,
        status: int,
        code: str,
        title: str,
        detail: str | None = None,
        errors: Sequence[FieldError] = (),
        retry_after: int | None = None,
        error_id: str | None = None,
        instance: str | None = None,
    ) -> None:
        super().__init__(f"{status} {code}: {detail or title}")
        self.status = status
        self.code = code
        self.title = title
        self.detail = detail
        self.errors = list(errors)
        self.retry_after = retry_after
        self.error_id = error_id
        self.instance = instance
        self.replayed = False

    def to_dict(self, request_id: str) -> dict[str, Any]:
        """The RFC 9457 members, with `code` and `request_id`, and with `errors` and `error_id` where they apply."""
        body: dict[str, Any] = {
            "type": f"/problems/{self.code}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail or self.title,
            "code": self.code,
            "request_id": request_id,
        }
        if self.instance:
            body["instance"] = self.instance
        if self.errors:
            body["errors"] = self.errors
        if self.error_id:
            body["error_id"] = self.error_id
        return body

    def to_json(self, request_id: str) -> bytes:
        return orjson.dumps(self.to_dict(request_id))


def problem(
    code: str,
    detail: str | None = None,
    *,
    errors: Sequence[FieldError] = (),
    retry_after: int | None = None,
    instance: str | None = None,
) -> ServiceError:
    """The ServiceError for one of `CODES`. Raises KeyError for a code that is not in the table."""
    status, title = CODES[code]
    return ServiceError(status, code, title, detail, errors, retry_after, instance=instance)


def parse_problem(body: bytes, status: int, retry_after: int | None = None) -> ServiceError:
    """The inverse of to_json. A body that is no problem document becomes one with code internal_error."""
    try:
        found = orjson.loads(body)
        return ServiceError(
            status,
            str(found["code"]),
            str(found["title"]),
            str(found["detail"]),
            found.get("errors", ()),
            retry_after,
            found.get("error_id"),
            found.get("instance"),
        )
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return problem("internal_error")


def masked(error: BaseException, **fields: str) -> ServiceError:
    """The answer to a fault of our own: says nothing of its cause, which is in the log under the same id."""
    answer = problem("internal_error")
    answer.error_id = str(new_id())
    log.error("request_failed", error_id=answer.error_id, exc_info=error, **fields)
    return answer


def validation_problem(faults: Iterable[Mapping[str, Any]], skip: int = 0) -> ServiceError:
    """The 422 for what pydantic found; `skip` leaves out that many leading parts of each location."""
    errors: list[FieldError] = []
    for fault in faults:
        # The tag of a union's branch stands in the location too; a person looks for the member's name.
        path = [str(part) for part in fault["loc"][skip:] if not str(part).startswith(("constrained", "function-"))]
        errors.append({"field": ".".join(path) or "body", "message": str(fault["msg"]).removeprefix("Value error, ")})
    return problem("validation_failed", errors=errors)


class Unavailable(Exception):
    """Something this process needs is away for now (its database, say): wait, do not count it against the message."""


class Poison(Exception):
    """A message that can never be handled, however often it is tried: it belongs into the dead letters."""
