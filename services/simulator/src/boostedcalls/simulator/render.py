"""What a client sees: Vapi's Call object, its artifact, and the messages of its webhooks. Pure but for fresh links."""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta
from typing import Any

from boostedcalls.simulator.calls import Call, iso, now
from boostedcalls.simulator.scenarios import PIPELINE_ERROR
from boostedcalls.simulator.talk import Json, analysis, bill, system_prompt, transcript

_ORG_ID = "5d1a7b0e-3c52-4f0b-9a64-2f8f0f6f1c11"
_STORAGE = "https://storage.example.test"
_PRESIGNED_FOR = timedelta(hours=1)
_ENDED_MESSAGES = {
    PIPELINE_ERROR: "The model's provider answered with an error.",
    "worker-shutdown": "The worker was shut down during the call.",
}
# A Twilio number arrives with its secrets, as the real one may: what receives it has to keep them to itself.
_PHONE_NUMBER: Json = {
    "provider": "twilio",
    "number": "+12025550199",
    "name": "Outbound main",
    "twilioAccountSid": "AC00000000000000000000000000000000",
    "twilioAuthToken": "simulated-twilio-auth-token",
    "twilioApiSecret": "simulated-twilio-api-secret",
}


def call_json(call: Call) -> Json:
    """The Call as `POST /call`, `GET /call` and `GET /call/{id}` answer it."""
    shown = _call_head(call)
    if call.status == "ended":
        shown["artifact"] = with_fresh_links(artifact(call))
    if call.analysed:
        shown |= {"analysis": analysis(call), **bill(call)}
    return shown


def _call_head(call: Call) -> Json:
    """The Call without what post-processing adds: this is also what its webhooks carry."""
    shown: Json = {
        "id": call.id,
        "orgId": _ORG_ID,
        "type": "outboundPhoneCall",
        "createdAt": iso(call.created_at),
        "updatedAt": iso(call.updated_at),
        "status": call.status,
        "phoneCallProvider": "twilio",
        "phoneCallProviderId": f"CA{call.id.replace('-', '')}",
        "phoneCallTransport": "pstn",
        "monitor": {
            "listenUrl": call.control_url.replace("http", "ws", 1).removesuffix("/control") + "/listen",
            "controlUrl": call.control_url,
        },
    }
    shown |= {name: value for name, value in call.request.items() if value is not None}
    if call.started_at:
        shown["startedAt"] = iso(call.started_at)
    if call.ended_at:
        shown |= {"endedAt": iso(call.ended_at), "endedReason": call.ended_reason}
        if message := _ENDED_MESSAGES.get(call.ended_reason or ""):
            shown["endedMessage"] = message
    return shown


def artifact(call: Call) -> Json:
    """What was said, as far as it got; with recordings once a call that was answered has ended."""
    prompt = system_prompt(call)
    messages: list[Json] = []
    openai: list[Json] = []
    if call.started_at:
        messages.append({"role": "system", "message": prompt, "time": _ms(call.started_at), "secondsFromStart": 0})
        openai.append({"role": "system", "content": prompt})
        ends = [*(line.at for line in call.spoken[1:]), call.ended_at or now()]
        for line, end in zip(call.spoken, ends, strict=False):
            messages.append(
                {
                    "role": line.role,
                    "message": line.text,
                    "time": _ms(line.at),
                    "endTime": _ms(end),
                    "secondsFromStart": (line.at - call.started_at).total_seconds(),
                    "duration": _ms(end) - _ms(line.at),
                }
            )
            openai.append({"role": "assistant" if line.role == "bot" else "user", "content": line.text})
    shown: Json = {
        "transcript": transcript(call.spoken),
        "messages": messages,
        "messagesOpenAIFormatted": openai,
        "variableValues": call.behaviour.variable_values or {},
    }
    if call.started_at and call.ended_at:
        base = f"{_STORAGE}/{call.id}"
        shown |= {
            "recordingUrl": f"{base}/mono.wav",
            "stereoRecordingUrl": f"{base}/stereo.wav",
            "recording": {"stereoUrl": f"{base}/stereo.wav", "mono": {"combinedUrl": f"{base}/mono.wav"}},
            "logUrl": f"{base}/log.jsonl.gz",
        }
    return shown


def with_fresh_links(shown: Json) -> Json:
    """A copy of an artifact with its short-lived links, which differ in every answer and in every try of a webhook."""
    if "recordingUrl" not in shown:
        return shown
    return shown | {
        "presignedMonoUrl": f"{shown['recordingUrl']}?sig={secrets.token_hex(16)}",
        "presignedStereoUrl": f"{shown['stereoRecordingUrl']}?sig={secrets.token_hex(16)}",
        "presignedUrlsExpiresAt": iso(now() + _PRESIGNED_FOR),
    }


def envelope(message: Json) -> Json:
    """A webhook's body, for one try."""
    return {"message": message | {"artifact": with_fresh_links(message["artifact"])}}


def _message(call: Call, kind: str, **own: Any) -> Json:
    behaviour = call.behaviour
    inline: Json = call.request.get("assistant") or {}
    own_words = {"firstMessage": behaviour.first_message, "metadata": behaviour.metadata or {}}
    return {
        "timestamp": _ms(now()),
        "type": kind,
        **own,
        "artifact": artifact(call),
        "call": _call_head(call),
        "phoneNumber": _PHONE_NUMBER,
        "customer": call.request["customer"],
        "assistant": {"name": "Simulated assistant"} | inline | own_words,
    }


def status_update(call: Call) -> Json:
    ended = {"endedReason": call.ended_reason} if call.status == "ended" else {}
    return _message(call, "status-update", status=call.status, **ended)


def speech_update(call: Call, status: str) -> Json:
    line = call.spoken[-1]
    role = "assistant" if line.role == "bot" else "user"
    return _message(call, "speech-update", status=status, role=role, turn=len(call.spoken) - 1)


def final_transcript(call: Call) -> Json:
    line = call.spoken[-1]
    role = "assistant" if line.role == "bot" else "user"
    return _message(call, "transcript", role=role, transcriptType="final", transcript=line.text)


def conversation_update(call: Call) -> Json:
    said = artifact(call)
    return _message(
        call,
        "conversation-update",
        messages=said["messages"],
        messagesOpenAIFormatted=said["messagesOpenAIFormatted"],
    )


def end_of_call_report(call: Call) -> Json:
    """With the members that real reports carry beyond the published schema (transcript, summary, durations …)."""
    money, verdict = bill(call), analysis(call)
    own: Json = {"endedReason": call.ended_reason, "analysis": verdict, **money}
    seconds = 0.0
    if call.started_at and call.ended_at:
        seconds = (call.ended_at - call.started_at).total_seconds()
        own["startedAt"] = iso(call.started_at)
    if call.ended_at:
        own["endedAt"] = iso(call.ended_at)
    own |= {"durationSeconds": seconds, "durationMs": round(seconds * 1000), "durationMinutes": round(seconds / 60, 4)}
    report = _message(call, "end-of-call-report", **own)
    said: Json = report["artifact"]
    report |= {
        name: said[name] for name in ("transcript", "messages", "recordingUrl", "stereoRecordingUrl") if name in said
    }
    if "summary" in verdict:
        report["summary"] = verdict["summary"]
    report["call"] |= {"cost": money["cost"], "costBreakdown": money["costBreakdown"]}
    return report


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)
