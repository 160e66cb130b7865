"""The body of `POST /call`: our request in the provider's words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from boostedcalls.calls import signing
from boostedcalls.calls.settings import ProviderSettings

# The provider neither retries a webhook nor sends an explicit list of them unless told to.
_BACKOFF = {"type": "exponential", "maxRetries": 10, "baseDelaySeconds": 10}
SERVER_MESSAGES = ("status-update", "end-of-call-report")
_WEBHOOK_TIMEOUT = 20
_NAME_LIMIT = 40


def _goals(row: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    goals: list[str | dict[str, str | None]] = row["call_goals"] or []
    for goal in goals:
        if isinstance(goal, str):
            lines.append(goal)
            continue
        line = goal["name"] or ""
        if goal.get("description"):
            line += f": {goal['description']}"
        if goal.get("successCriteria"):
            line += f" (reached when: {goal['successCriteria']})"
        lines.append(line)
    return lines


def _server(settings: ProviderSettings) -> dict[str, Any] | None:
    """Where the provider is to report to, and how it proves itself there. None without such a proof: one that stands
    here hides the one of the saved assistant, credential and all, and unproved reports are refused by the gateway."""
    proof: dict[str, Any]
    if settings.vapi_webhook_credential_id:
        proof = {"credentialId": settings.vapi_webhook_credential_id}
    elif settings.vapi_webhook_secret:
        proof = {"headers": {"x-vapi-secret": settings.vapi_webhook_secret.get_secret_value()}}
    else:
        return None
    if not settings.vapi_webhook_url:
        return None
    return {
        "url": settings.vapi_webhook_url,
        "timeoutSeconds": _WEBHOOK_TIMEOUT,
        "backoffPlan": _BACKOFF,
        **proof,
    }


def create_call_body(row: Mapping[str, Any], settings: ProviderSettings) -> dict[str, Any]:
    """The request for a call's row. Our id goes out in `name` and, signed, in the metadata, so that any report of the
    call finds it again."""
    goals = _goals(row)
    variables = {"contactName": row["contact_name"]}
    if row["custom_prompt"]:
        variables["customPrompt"] = row["custom_prompt"]
    if goals:
        variables["callGoals"] = "\n".join(goals)
    overrides: dict[str, Any] = {
        "metadata": signing.metadata(
            settings.call_signing_secret.get_secret_value().encode(), row["id"], row["user_id"]
        ),
        "variableValues": variables,
        "serverMessages": list(SERVER_MESSAGES),
    }
    if row["first_message"]:
        overrides["firstMessage"] = row["first_message"]
    if row["custom_prompt"]:
        # A prompt can only be given together with the model that follows it.
        prompt = row["custom_prompt"] + (f"\n\nGoals of this call:\n- {'\n- '.join(goals)}" if goals else "")
        overrides["model"] = {
            "provider": settings.vapi_model_provider,
            "model": settings.vapi_model,
            "messages": [{"role": "system", "content": prompt}],
        }
    if server := _server(settings):
        overrides["server"] = server
    return {
        "name": str(row["id"]),
        "assistantId": row["assistant_id"],
        "phoneNumberId": row["phone_number_id"],
        "customer": {
            "number": row["contact_phone"],
            "name": row["contact_name"][:_NAME_LIMIT],
            "externalId": str(row["contact_id"]),
        },
        "assistantOverrides": overrides,
    }
