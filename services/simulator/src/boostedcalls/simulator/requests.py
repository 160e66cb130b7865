"""What a client may send, checked against the limits of its published schemas.

Not played, and therefore refused: batches (`customers`) and `schedulePlan`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic.alias_generators import to_camel

from boostedcalls.simulator.faults import BadRequest, bad_request

_E164 = re.compile(r"\+[1-9]\d{1,14}")
_ALPHANUMERIC = re.compile(r"\+?[a-zA-Z0-9]+")
_NOT_E164 = (
    "must be a valid phone number in the E.164 format. Hot tip, you may be missing the country code (Eg. US: +1)."
)
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")

ServerMessage = Literal[
    "assistant.speechStarted",
    "assistant.started",
    "call.artifact.upload",
    "call.delete.failed",
    "call.deleted",
    "chat.created",
    "chat.deleted",
    "conversation-update",
    "end-of-call-report",
    "function-call",
    "handoff-destination-request",
    "hang",
    "language-change-detected",
    "language-changed",
    "model-output",
    "phone-call-control",
    "session.created",
    "session.deleted",
    "session.updated",
    "speech-update",
    "status-update",
    "tool-calls",
    "transcript",
    'transcript[transcriptType="final"]',
    "transfer-destination-request",
    "transfer-update",
    "user-interrupted",
    "voice-input",
]
_DEFAULT_SERVER_MESSAGES: tuple[ServerMessage, ...] = (
    "conversation-update",
    "end-of-call-report",
    "function-call",
    "hang",
    "speech-update",
    "status-update",
    "tool-calls",
    "transfer-destination-request",
    "handoff-destination-request",
    "user-interrupted",
    "assistant.started",
)


class _Dto(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, strict=True, frozen=True, extra="forbid")


class _OpenDto(_Dto):
    model_config = ConfigDict(extra="ignore")


class BackoffPlan(_Dto):
    type: Literal["fixed", "exponential"] = "fixed"
    max_retries: int = Field(default=0, ge=0, le=10)
    base_delay_seconds: float = Field(default=1, ge=0, le=10)
    excluded_status_codes: list[int] = []


class Server(_OpenDto):
    """Where webhooks go, and how. `timeout_seconds` is for one attempt."""

    url: str
    timeout_seconds: float = Field(20, ge=1, le=300)
    headers: dict[str, str] = {}
    backoff_plan: BackoffPlan | None = None

    @field_validator("url")
    @classmethod
    def _reachable(cls, url: str, info: ValidationInfo) -> str:
        """https, or plain http to loopback and to the hosts the settings name. What passed once is not asked again."""
        if info.context is None:
            return url
        parts = urlsplit(url)
        plain = ("localhost", *info.context["http_hosts"])
        if parts.hostname and (parts.scheme == "https" or (parts.scheme == "http" and _is(parts.hostname, plain))):
            return url
        raise ValueError("must be a valid https:// or wss:// URL")

    @field_validator("headers")
    @classmethod
    def _sendable(cls, headers: dict[str, str]) -> dict[str, str]:
        for name, value in headers.items():
            if not _HEADER_NAME.fullmatch(name) or any(char in value for char in "\r\n\0"):
                raise ValueError("must hold valid HTTP headers")
        return headers


def _is(host: str, names: tuple[str, ...]) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in names


class Prompt(_OpenDto):
    content: Any = None


class Model(_OpenDto):
    messages: list[Prompt] | None = None


class Behaviour(_OpenDto):
    """What an inline assistant and `assistantOverrides` share, as far as the simulator acts on it."""

    first_message: str | None = None
    model: Model | None = None
    voicemail_message: str | None = Field(None, max_length=1000)
    variable_values: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None
    server: Server | None = None
    server_messages: list[ServerMessage] | None = None
    max_duration_seconds: float | None = Field(None, ge=10, le=43200)

    @property
    def wanted(self) -> tuple[str, ...]:
        """The webhook types asked for."""
        return _DEFAULT_SERVER_MESSAGES if self.server_messages is None else tuple(self.server_messages)


class Customer(_Dto):
    number_e164_check_enabled: bool | None = Field(None, alias="numberE164CheckEnabled")
    number: str | None = Field(None, min_length=3, max_length=40)
    extension: str | None = Field(None, max_length=10)
    sip_uri: str | None = None
    name: str | None = Field(None, max_length=40)
    email: str | None = Field(None, max_length=40)
    external_id: str | None = Field(None, max_length=40)
    assistant_overrides: dict[str, Any] | None = None
    squad_overrides: dict[str, Any] | None = None

    @field_validator("number")
    @classmethod
    def _dialable(cls, number: str | None, info: ValidationInfo) -> str | None:
        pattern = _ALPHANUMERIC if info.data.get("number_e164_check_enabled") is False else _E164
        if number is not None and not pattern.fullmatch(number):
            raise ValueError(_NOT_E164)
        return number


class CreateCall(_Dto):
    """`CreateCallDTO`: every member is optional in the schema, none beyond these exists."""

    assistant_id: str | None = None
    assistant: Behaviour | None = None
    assistant_version: str | None = None
    assistant_overrides: Behaviour | None = None
    squad_id: str | None = None
    squad: dict[str, Any] | None = None
    squad_version: str | None = None
    squad_overrides: dict[str, Any] | None = None
    workflow_id: str | None = None
    workflow: dict[str, Any] | None = None
    workflow_overrides: dict[str, Any] | None = None
    phone_number_id: str | None = None
    phone_number: dict[str, Any] | None = None
    customer: Customer | None = None
    customer_id: str | None = None
    customers: list[Customer] | None = None
    schedule_plan: dict[str, Any] | None = None
    name: str | None = Field(None, max_length=40)
    transport: dict[str, Any] | None = None


def check_create(body: object, http_hosts: tuple[str, ...]) -> str:
    """The number to dial. Raises BadRequest."""
    try:
        call = CreateCall.model_validate(body, context={"http_hosts": http_hosts})
    except ValidationError as error:
        raise bad_request(error) from None
    if call.customers is not None or call.schedule_plan is not None:
        raise BadRequest("The simulator plays one call at a time: it knows neither customers nor schedulePlan.")
    if not (call.assistant_id or call.assistant or call.squad_id or call.squad or call.workflow_id or call.workflow):
        raise BadRequest("Couldn't Get Assistant. Need Either `assistantId` Or `assistant`.")
    if not (call.phone_number_id or call.phone_number):
        raise BadRequest("Couldn't Get Phone Number. Need Either `phoneNumberId` Or `phoneNumber`.")
    if call.customer is None or call.customer.number is None:
        raise BadRequest("Couldn't Get Customer. Need `customer.number`.")
    return call.customer.number


def behaviour_of(body: Mapping[str, Any]) -> Behaviour:
    """What a checked request asks for: the inline assistant, member by member replaced by `assistantOverrides`."""
    assistant: dict[str, Any] = body.get("assistant") or {}
    overrides: dict[str, Any] = body.get("assistantOverrides") or {}
    given = {name: value for name, value in overrides.items() if value is not None}
    return Behaviour.model_validate(assistant | given)


def _moment(value: object) -> object:
    try:
        return datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        raise ValueError("must be a valid ISO 8601 date string") from None


def _in_utc(value: datetime) -> datetime:
    return value if value.tzinfo else value.replace(tzinfo=UTC)


type Moment = Annotated[datetime, BeforeValidator(_moment), AfterValidator(_in_utc)]


class ListFilters(_Dto):
    """The query of `GET /call`: there is no cursor, no sort and no filter by status, name or metadata."""

    id: str | None = None
    assistant_id: str | None = None
    phone_number_id: str | None = None
    limit: int = Field(100, ge=0, le=1000, strict=False)
    created_at_gt: Moment | None = None
    created_at_lt: Moment | None = None
    created_at_ge: Moment | None = None
    created_at_le: Moment | None = None
    updated_at_gt: Moment | None = None
    updated_at_lt: Moment | None = None
    updated_at_ge: Moment | None = None
    updated_at_le: Moment | None = None


def check_filters(query: Mapping[str, str]) -> ListFilters:
    """Raises BadRequest."""
    try:
        return ListFilters.model_validate(dict(query))
    except ValidationError as error:
        raise bad_request(error) from None
