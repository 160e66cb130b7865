"""What the answers of the OpenAPI document look like: one example an operation, held to the models by a test."""

from __future__ import annotations

from typing import Any

_CALL_ID = "019c4a7d-7e0a-7b1e-9f5c-2d8a1c6e4b90"
_CONTACT_ID = "019c4a2f-31c4-7d52-8a3e-6b0f9d7c1e24"
_SCRIPT_ID = "019c4a30-9b7f-7c86-b0d1-4e5a2f8c6d13"

_CONTACT: dict[str, Any] = {
    "id": _CONTACT_ID,
    "name": "Jane Doe",
    "phone": "+1987654321",
    "email": "jane@example.com",
    "metadata": {"key": "value"},
    "created_at": "2026-02-11T00:00:00Z",
    "updated_at": "2026-02-11T00:00:00Z",
}
_SCRIPT: dict[str, Any] = {
    "id": _SCRIPT_ID,
    "name": "Sales Pitch",
    "description": "Standard sales call",
    "custom_prompt": "You are a sales rep...",
    "first_message": "Hi, this is...",
    "call_goals": ["Qualify lead", "Schedule demo"],
    "created_at": "2026-02-11T00:00:00Z",
    "updated_at": "2026-02-11T00:00:00Z",
}
_BRIEF = {name: _CONTACT[name] for name in ("id", "name", "phone")}
_RESULT: dict[str, Any] = {
    "id": _CALL_ID,
    "contact": _BRIEF,
    "contact_id": _CONTACT_ID,
    "contact_name": "Jane Doe",
    "contact_phone": "+1987654321",
    "script_id": _SCRIPT_ID,
    "status": "completed",
    "outcome": "success",
    "transcript": "AI: Hi, this is...\nUser: Hello.",
    "summary": "Jane asked for a demo on Friday.",
    "started_at": "2026-02-11T03:00:00Z",
    "ended_at": "2026-02-11T03:05:00Z",
    "duration_seconds": 300,
    "cost": 0.5,
    "created_at": "2026-02-11T02:59:00Z",
}
_CALL: dict[str, Any] = {
    **_RESULT,
    "contact": {**_BRIEF, "email": "jane@example.com", "metadata": {"key": "value"}},
    "script": {name: _SCRIPT[name] for name in ("id", "name", "custom_prompt", "first_message", "call_goals")},
    "custom_prompt": None,
    "first_message": None,
    "call_goals": None,
    "vapi_call_id": "0b7f3c1e-52d4-4f0a-9c67-1d2e3f4a5b6c",
    "assistant_id": "vapi-assistant-id",
    "phone_number_id": "vapi-phone-number-id",
    "ended_reason": "customer-ended-call",
    "analysis": {"summary": "Jane asked for a demo on Friday.", "successEvaluation": "true"},
    "metadata": {"key": "value", "recordingUrl": "https://storage.example.com/recording.wav", "cost": 0.5},
    "error_code": None,
    "error_message": None,
    "updated_at": "2026-02-11T03:05:04Z",
}
_UNFINISHED: dict[str, Any] = {
    "outcome": None,
    "transcript": None,
    "summary": None,
    "analysis": None,
    "started_at": None,
    "ended_at": None,
    "duration_seconds": None,
    "cost": None,
    "metadata": {"key": "value"},
}
_TOKENS = {"access": "eyJ0eXAiOiJKV1QiLCJhbGc...", "refresh": "k3Jx0c7mGf9w1Yb6uVh2sQ8zTn4rLd5pAeXoRiMyWqE"}

ANSWERS: dict[str, Any] = {
    "create_token": _TOKENS,
    "refresh_token": _TOKENS,
    "signup": {"id": "019c4a2e-0d1b-7f3c-8e5a-7b9c0d1e2f34", "email": "user@example.com"},
    "list_calls": {
        "total": 1284,
        "page": 1,
        "limit": 20,
        "total_pages": 65,
        "next_cursor": "AAZKvPzc4AABnEp9fgp7Hp9cLYocbkuQ",
        "data": [_RESULT],
    },
    "create_call": {**_CALL, **_UNFINISHED, "status": "queued", "ended_reason": None},
    "get_call": _CALL,
    "cancel_call": {**_CALL, **_UNFINISHED, "status": "cancelled", "ended_reason": None},
    "sync_call": _CALL,
    "count_pending_calls": {"count": 5},
    "get_call_stats": {
        "cards": [
            {"title": "Total Spent on Calls", "value": "$50.00"},
            {"title": "Calls made", "value": "1284"},
            {"title": "Failed calls", "value": "38"},
            {"title": "Contacts", "value": "4902"},
        ],
        "lineChart": {
            "title": "Successful calls",
            "subtitle": "+18% vs previous 14 days",
            "badge": "Last 14 days",
            "points": [{"x": 0, "y": 118, "label": "Mon"}, {"x": 1, "y": 102, "label": "Tue"}],
        },
    },
    "list_call_events": [
        {
            "id": "019c4a7d-8123-7a4b-8c5d-6e7f8091a2b3",
            "at": "2026-02-11T03:00:00Z",
            "type": "status-update",
            "source": "webhook",
            "status": "in-progress",
            "detail": None,
        }
    ],
    "receive_webhook": {"ok": True},
    "list_contacts": [_CONTACT],
    "create_contact": _CONTACT,
    "get_contact": _CONTACT,
    "replace_contact": {**_CONTACT, "name": "Jane Updated", "email": "jane.updated@example.com"},
    "update_contact": {**_CONTACT, "email": "newemail@example.com"},
    "delete_contact": {"message": "Contact deleted successfully."},
    "list_scripts": [_SCRIPT],
    "create_script": _SCRIPT,
    "get_script": _SCRIPT,
    "replace_script": {**_SCRIPT, "name": "Updated Support Script", "description": "Updated description"},
    "update_script": {**_SCRIPT, "description": "New description"},
    "delete_script": {"success": True},
    "healthz": {"status": "ok"},
    "readyz": {"nats": True, "database": True},
}

REQUESTS: dict[str, Any] = {
    "create_token": {"username": "user@example.com", "password": "your-password"},
    "refresh_token": {"refresh": _TOKENS["refresh"]},
    "signup": {"email": "user@example.com", "password": "your-password"},
    "logout": {"refresh": _TOKENS["refresh"]},
    "change_own_password": {"current_password": "your-password", "new_password": "your-next-password"},
    "create_call": {
        "contact_id": _CONTACT_ID,
        "assistant_id": "vapi-assistant-id",
        "phone_number_id": "vapi-phone-number-id",
        "script_id": _SCRIPT_ID,
        "custom_prompt": "optional custom prompt",
        "first_message": "optional first message",
        "call_goals": ["goal1", "goal2"],
        "metadata": {"key": "value"},
    },
    "receive_webhook": {
        "message": {"type": "status-update", "status": "ringing", "call": {"id": _CALL["vapi_call_id"]}}
    },
    "create_contact": {
        "name": "Jane Doe",
        "phone": "+1987654321",
        "email": "jane@example.com",
        "metadata": {"key": "value"},
    },
    "replace_contact": {"name": "Jane Updated", "phone": "+1987654321", "email": "jane.updated@example.com"},
    "update_contact": {"email": "newemail@example.com"},
    "create_script": {
        "name": "Support Script",
        "description": "Technical support call",
        "custom_prompt": "You are a support agent...",
        "first_message": "Hi, how can I help?",
        "call_goals": ["Resolve issue", "Collect feedback"],
    },
    "replace_script": {"name": "Updated Support Script", "description": "Updated description"},
    "update_script": {"description": "New description"},
}
