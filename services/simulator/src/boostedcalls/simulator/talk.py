"""What is said in a call, and what the provider makes of it afterwards: analysis and cost. Pure."""

from __future__ import annotations

import re
from typing import Any, Literal

from boostedcalls.simulator.calls import Call, Utterance
from boostedcalls.simulator.requests import Behaviour
from boostedcalls.simulator.scenarios import Script

type Json = dict[str, Any]
type Line = tuple[Literal["bot", "user"], str]

_FIRST_MESSAGE = "Hello, this is a simulated call. Do you have a minute?"
_SYSTEM_PROMPT = "You are a friendly assistant on the phone."
_TEMPLATE = re.compile(r"{{\s*([\w.]+)[^}]*}}")

# Simulated time is squeezed, so that a bill by the clock would be all zeros: each utterance counts as this much talk.
_MINUTES_PER_UTTERANCE = 0.125
# Amounts are whole ten-thousandths of a dollar until they are shown, so that the parts add up to the total.
_UNIT = 10_000
_PER_MINUTE = {"transport": 140, "stt": 100, "vapi": 500}
_ANALYSIS = 11


def script(call: Call, kind: Script) -> list[Line]:
    """The (role, text) lines of a conversation, in order."""
    wishes = call.behaviour
    first = fill(wishes.first_message or _FIRST_MESSAGE, wishes)
    name = str(call.request["customer"].get("name") or "")
    match kind:
        case "voicemail":
            greeting = "You have reached my voicemail. Please leave a message after the tone."
            return [("user", greeting), ("bot", fill(wishes.voicemail_message, wishes) or first)]
        case "cut-off":
            return [("bot", first)]
        case "conversation":
            return [
                ("bot", first),
                ("user", f"Yes, this is {name}. That sounds good to me." if name else "Yes, that sounds good to me."),
                ("bot", "Wonderful. I have noted that down for you. Thank you for your time."),
                ("user", "Thank you. Goodbye!"),
            ]


def fill(template: str | None, wishes: Behaviour) -> str:
    """Put `variableValues` into `{{ name }}` placeholders; an unknown name becomes nothing, as in LiquidJS."""

    def value(match: re.Match[str]) -> str:
        found: Any = wishes.variable_values or {}
        for part in match[1].split("."):
            found = found.get(part, "") if hasattr(found, "get") else ""
        return str(found)

    return _TEMPLATE.sub(value, template or "")


def system_prompt(call: Call) -> str:
    """The prompt of the request's inline model, else a stand-in for the saved assistant's."""
    wishes = call.behaviour
    messages = wishes.model.messages if wishes.model else None
    prompt = messages[0].content if messages else None
    return fill(prompt, wishes) if isinstance(prompt, str) else _SYSTEM_PROMPT


def transcript(spoken: list[Utterance]) -> str:
    return "".join(f"{'AI' if line.role == 'bot' else 'User'}: {line.text}\n" for line in spoken)


def analysis(call: Call) -> Json:
    """`{}` unless both sides spoke: Vapi leaves out calls of fewer than two messages."""
    if len({line.role for line in call.spoken}) < 2:
        return {}
    name = call.request["customer"].get("name") or "The customer"
    match call.ended_reason:
        case "assistant-ended-call":
            return {
                "summary": f"{name} answered, listened and agreed to what was proposed.",
                "structuredData": {"agreed": True, "callbackRequested": False},
                "successEvaluation": "true",
            }
        case "voicemail":
            return {"summary": "The call reached a voicemail.", "successEvaluation": "false"}
        case _:
            return {
                "summary": f"{name} answered, but the call ended before the conversation was over.",
                "structuredData": {"agreed": False, "callbackRequested": False},
                "successEvaluation": "false",
            }


def bill(call: Call) -> Json:
    """`cost` in US dollars, with `costBreakdown` and `costs` that add up to it. A call nobody answered is free."""
    if call.started_at is None or call.ended_at is None:
        return {"cost": 0, "costBreakdown": _breakdown({}, 0, 0, 0), "costs": []}
    minutes = max(_MINUTES_PER_UTTERANCE * len(call.spoken), (call.ended_at - call.started_at).total_seconds() / 60)
    characters = sum(len(line.text) for line in call.spoken if line.role == "bot")
    prompt_tokens, completion_tokens = 200 + 60 * len(call.spoken), max(characters // 4, 1)
    amounts = {kind: round(minutes * price) for kind, price in _PER_MINUTE.items()}
    amounts["llm"] = max((prompt_tokens * 2 + completion_tokens * 8) // 100, 1)
    amounts["tts"] = max(characters // 2, 1)
    if analysed := bool(analysis(call)):
        amounts["analysis"] = _ANALYSIS
    shown = {kind: amount / _UNIT for kind, amount in amounts.items()}
    minutes = round(minutes, 4)
    costs: list[Json] = [
        {"type": "transport", "provider": "twilio", "minutes": minutes, "cost": shown["transport"]},
        {
            "type": "transcriber",
            "transcriber": {"provider": "deepgram", "model": "nova-3"},
            "minutes": minutes,
            "cost": shown["stt"],
        },
        {
            "type": "model",
            "model": {"provider": "openai", "model": "gpt-4.1"},
            "promptTokens": prompt_tokens,
            "completionTokens": completion_tokens,
            "cost": shown["llm"],
        },
        {
            "type": "voice",
            "voice": {"provider": "vapi", "voiceId": "Elliot"},
            "characters": characters,
            "cost": shown["tts"],
        },
        {"type": "vapi", "subType": "normal", "minutes": minutes, "cost": shown["vapi"]},
    ]
    if analysed:
        costs.append(
            {
                "type": "analysis",
                "analysisType": "summary",
                "model": {"provider": "anthropic", "model": "claude-haiku"},
                "promptTokens": prompt_tokens,
                "completionTokens": 52,
                "cost": shown["analysis"],
            }
        )
    return {
        "cost": sum(amounts.values()) / _UNIT,
        "costBreakdown": _breakdown(amounts, prompt_tokens, completion_tokens, characters),
        "costs": costs,
    }


def _breakdown(amounts: dict[str, int], prompt_tokens: int, completion_tokens: int, characters: int) -> Json:
    parts = {kind: amounts.get(kind, 0) / _UNIT for kind in ("transport", "stt", "llm", "tts", "vapi")}
    summarised = "analysis" in amounts
    return parts | {
        "chat": 0,
        "total": sum(amounts.values()) / _UNIT,
        "llmPromptTokens": prompt_tokens,
        "llmCompletionTokens": completion_tokens,
        "ttsCharacters": characters,
        "analysisCostBreakdown": {
            "summary": amounts.get("analysis", 0) / _UNIT,
            "summaryPromptTokens": prompt_tokens if summarised else 0,
            "summaryCompletionTokens": 52 if summarised else 0,
        },
    }
