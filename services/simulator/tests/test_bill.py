"""What a call costs and what is made of it: the parts add up to the whole."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Literal

import pytest

from boostedcalls.simulator.calls import Call, Utterance, now
from boostedcalls.simulator.requests import behaviour_of
from boostedcalls.simulator.scenarios import Script, scenario_for
from boostedcalls.simulator.talk import analysis, bill, fill, script, system_prompt


def make_call(seconds: float, said: int, **request: Any) -> Call:
    start = now()
    roles: list[Literal["bot", "user"]] = ["bot", "user"]
    return Call(
        id="1",
        request={"customer": {"number": "+12025550100"}, **request},
        control_url="http://127.0.0.1/1/control",
        created_at=start,
        updated_at=start,
        started_at=start,
        ended_at=start + timedelta(seconds=seconds),
        ended_reason="assistant-ended-call",
        spoken=[Utterance(role=roles[n % 2], text="word " * (n + 3), at=start) for n in range(said)],
    )


@pytest.mark.parametrize(("seconds", "said"), [(0.9, 1), (0.9, 4), (61.7, 4), (3599.3, 17)])
def test_breakdown_and_costs_add_up_to_the_cost(seconds: float, said: int) -> None:
    money = bill(make_call(seconds, said))
    parts = money["costBreakdown"]
    assert money["cost"] == parts["total"] > 0
    summary = parts["analysisCostBreakdown"]["summary"]
    assert (
        round(sum(parts[kind] for kind in ("transport", "stt", "llm", "tts", "vapi", "chat")) + summary, 4)
        == money["cost"]
    )
    assert round(sum(cost["cost"] for cost in money["costs"]), 4) == money["cost"]


def test_a_call_with_one_voice_is_not_analysed() -> None:
    assert analysis(make_call(1, 1)) == {}
    assert analysis(make_call(1, 2))["successEvaluation"] == "true"


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("Hi {{name}}!", "Hi Dana!"),
        ("Hi {{ name | default: 'you' }}!", "Hi Dana!"),
        ("{{ order.id }} and {{ missing }}.", "7 and ."),
        ("{{ name.first }}", ""),
        ("no placeholder", "no placeholder"),
    ],
)
def test_placeholders_are_filled_from_the_variables(template: str, text: str) -> None:
    wishes = behaviour_of({"assistantOverrides": {"variableValues": {"name": "Dana", "order": {"id": 7}}}})
    assert fill(template, wishes) == text


def test_overrides_win_over_the_inline_assistant() -> None:
    wishes = behaviour_of(
        {
            "assistant": {"firstMessage": "A", "metadata": {"a": 1}},
            "assistantOverrides": {"firstMessage": "B", "metadata": None},
        }
    )
    assert (wishes.first_message, wishes.metadata) == ("B", {"a": 1})


def test_the_prompt_is_that_of_the_inline_model() -> None:
    call = make_call(1, 1, assistantOverrides={"model": {"messages": [{"role": "system", "content": "Be brief."}]}})
    assert system_prompt(call) == "Be brief."
    assert system_prompt(make_call(1, 1))


@pytest.mark.parametrize("kind", ["conversation", "voicemail", "cut-off"])
def test_every_script_says_the_first_message(kind: Script) -> None:
    lines = script(make_call(1, 1, assistantOverrides={"firstMessage": "Good day."}), kind)
    assert ("bot", "Good day.") in lines


@pytest.mark.parametrize("number", ["+12025550100", "+12025550199", "+120255501", "+1202555010", "+120255501011", "x"])
def test_a_number_outside_the_table_is_an_ordinary_one(number: str) -> None:
    assert scenario_for(number) == scenario_for("+12025550100")
