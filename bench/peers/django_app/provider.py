"""The provider's `POST /call`, over connections that are kept: one session a thread."""

import threading
from typing import Any

import requests
from django.conf import settings

from bench.peers.django_app.models import Call

_TIMEOUT = (3, 20)
_local = threading.local()


def _session() -> requests.Session:
    if not hasattr(_local, "session"):
        _local.session = requests.Session()
        _local.session.headers["Authorization"] = f"Bearer {settings.VAPI_API_KEY}"
    return _local.session


def place(call: Call) -> str:
    """Ask the provider to dial; returns its id of the call. Raises requests.RequestException."""
    overrides: dict[str, Any] = {
        "metadata": {"callId": str(call.id)},
        "variableValues": {"contactName": call.contact.name},
        "serverMessages": ["status-update", "end-of-call-report"],
    }
    if call.first_message:
        overrides["firstMessage"] = call.first_message
    if settings.VAPI_WEBHOOK_URL:
        headers = {"x-vapi-secret": settings.VAPI_WEBHOOK_SECRET}
        overrides["server"] = {"url": settings.VAPI_WEBHOOK_URL, "timeoutSeconds": 20, "headers": headers}
    body = {
        "name": str(call.id),
        "assistantId": call.assistant_id,
        "phoneNumberId": call.phone_number_id,
        "customer": {"number": call.contact.phone, "name": call.contact.name[:40]},
        "assistantOverrides": overrides,
    }
    answer = _session().post(f"{settings.VAPI_BASE_URL}/call", json=body, timeout=_TIMEOUT)
    answer.raise_for_status()
    return answer.json()["id"]
