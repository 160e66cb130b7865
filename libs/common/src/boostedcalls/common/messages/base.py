"""What all messages share: strict models, limits, and the description of a request/reply pair."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

import orjson
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    EmailStr,
    Field,
    JsonValue,
    PlainSerializer,
    WithJsonSchema,
)

MAX_BODY = 1024 * 1024
MAX_WEBHOOK_BODY = 4 * 1024 * 1024
MAX_METADATA_BYTES = 16 * 1024
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def no_nul(text: str) -> str:
    """The text itself. Raises ValueError when it holds a NUL character, which Postgres cannot carry."""
    if "\x00" in text:
        raise ValueError("must not contain the NUL character")
    return text


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be blank")
    return text


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("is out of range") from None


def rfc3339(moment: datetime, timespec: str = "auto") -> str:
    """A time as the API, the events and the provider write it: UTC, with `Z`; `timespec` as in `isoformat`."""
    return moment.astimezone(UTC).isoformat(timespec=timespec).replace("+00:00", "Z")


def _checked_metadata(value: dict[str, Any]) -> dict[str, Any]:
    try:
        encoded = orjson.dumps(value)
    except orjson.JSONEncodeError as error:
        raise ValueError("holds a value that JSON cannot carry") from error
    if len(encoded) > MAX_METADATA_BYTES:
        raise ValueError(f"must not be larger than {MAX_METADATA_BYTES} bytes")
    if b"\\u0000" in encoded:
        raise ValueError("must not contain the NUL character")
    return value


def _written_out(value: Any) -> Any:
    # Left alone, a number counts as seconds since 1970.
    if isinstance(value, (int, float)) or (isinstance(value, str) and not _RFC3339.fullmatch(value)):
        raise ValueError("must be written as in RFC 3339: 2026-02-11T00:00:00Z")
    return value


def _as_json(moment: datetime) -> str:
    return rfc3339(moment)


Name = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(no_nul), AfterValidator(_not_blank)]
Email = Annotated[EmailStr, Field(max_length=254), AfterValidator(no_nul)]
Phone = Annotated[str, Field(min_length=3, max_length=40), AfterValidator(no_nul)]
Prompt = Annotated[str, Field(max_length=20_000), AfterValidator(no_nul)]
Line = Annotated[str, Field(max_length=2_000), AfterValidator(no_nul)]
Id = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(no_nul)]
# Printable ASCII, with blanks only inside: what every client and proxy passes on as it is.
IdempotencyKey = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[!-~]([ -~]*[!-~])?$")]
Query = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(no_nul)]
Metadata = Annotated[dict[str, JsonValue], AfterValidator(_checked_metadata)]
Cursor = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9_-]+$")]
Moment = Annotated[
    AwareDatetime,
    AfterValidator(_in_utc),
    PlainSerializer(_as_json, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]

# A time in a request.
GivenMoment = Annotated[Moment, BeforeValidator(_written_out)]


class Model(BaseModel):
    """Base of every message: unknown members are refused, and so is a number too large to be one (1e999)."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Answer(BaseModel):
    """Base of what a service answers: built from rows, so nothing is checked twice."""

    model_config = ConfigDict(frozen=True)


class Replayed(bytes):
    """An answer's bytes, given before to another request and now again; the bus hands them over as such. orjson reads
    no subclass of bytes: give it bytes(answer)."""


def encoded(answer: BaseModel) -> bytes:
    """An answer as it is sent."""
    return answer.model_dump_json(by_alias=True).encode()


class Goal(Model):
    """One goal of a call, spelled out."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    name: Name
    description: Line | None = None
    success_criteria: Line | None = Field(None, alias="successCriteria", serialization_alias="successCriteria")


GoalText = Annotated[str, Field(min_length=1, max_length=2_000), AfterValidator(no_nul)]
Goals = Annotated[list[GoalText | Goal], Field(max_length=50)]


class Nothing(Model):
    """A request or an answer without members."""


@dataclass(frozen=True, slots=True)
class Rpc[Req: BaseModel, Res: BaseModel]:
    """A request/reply pair: subject, what is sent, what comes back, and the codes of its own errors.

    Every pair may besides answer internal_error, unavailable, timeout and validation_failed.
    """

    subject: str
    request: type[Req]
    response: type[Res]
    errors: tuple[str, ...] = ()
