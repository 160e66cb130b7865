"""Which number does what (docs/simulator.md). Pure; `play` and `app` act it out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Script = Literal["conversation", "voicemail", "cut-off"]
Delivery = Literal["in-order", "lost", "shuffled", "report-first"]
Answer = Literal[
    "created", "after-webhooks", "error-after-dial", "error-before-dial", "dropped", "late", "throttled", "refused"
]


@dataclass(frozen=True, slots=True)
class Scenario:
    """How the person, the network and the provider behave for one call."""

    ended_reason: str = "assistant-ended-call"
    answered: bool = True
    script: Script = "conversation"
    until_told: bool = False
    delivery: Delivery = "in-order"
    answer: Answer = "created"


PIPELINE_ERROR = "pipeline-error-openai-llm-failed"

_ORDINARY = Scenario()
_TABLE: dict[str, Scenario] = {
    "00": _ORDINARY,
    "01": Scenario("customer-busy", answered=False),
    "02": Scenario("customer-did-not-answer", answered=False),
    "03": Scenario("voicemail", script="voicemail"),
    "04": Scenario(PIPELINE_ERROR, script="cut-off"),
    "05": Scenario(until_told=True),
    "10": Scenario(delivery="lost"),
    "11": Scenario(delivery="shuffled"),
    "12": Scenario(answer="after-webhooks"),
    "13": Scenario(delivery="report-first"),
    "20": Scenario(answer="error-after-dial"),
    "21": Scenario(answer="error-before-dial"),
    "22": Scenario(answer="dropped"),
    "23": Scenario(answer="late"),
    "24": Scenario(answer="throttled"),
    "25": Scenario(answer="refused"),
}
_RANGE = re.compile(r"\+120255501(\d\d)")


def scenario_for(number: str) -> Scenario:
    """The scenario of an E.164 number; one outside `+1 202 555 01xx`, or not in the table, acts like 00."""
    match = _RANGE.fullmatch(number)
    return _TABLE.get(match[1], _ORDINARY) if match else _ORDINARY
