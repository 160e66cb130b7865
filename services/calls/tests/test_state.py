import random
from decimal import Decimal
from itertools import permutations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boostedcalls.calls.state import ACTIVE, RANKS, TERMINAL, CallState, Fact, Source, entry, fold
from boostedcalls.common.context import new_id
from boostedcalls.common.messages.calls import CallStatus

from .facts import T0, facts


@settings(max_examples=400)
@given(st.lists(facts, max_size=8), st.randoms(use_true_random=False), st.data())
def test_any_order_with_any_repeats_gives_the_same_state(
    learned: list[Fact], rnd: random.Random, data: st.DataObject
) -> None:
    expected = fold(CallState(), learned)
    shuffled = learned + data.draw(st.lists(st.sampled_from(learned), max_size=5)) if learned else []
    rnd.shuffle(shuffled)
    one_by_one = CallState()
    while shuffled:
        size = rnd.randint(1, len(shuffled))
        one_by_one = fold(one_by_one, shuffled[:size])
        del shuffled[:size]
    assert one_by_one == expected


@settings(max_examples=300)
@given(st.lists(facts, max_size=6), facts)
def test_a_rank_never_goes_down(learned: list[Fact], late: Fact) -> None:
    before = fold(CallState(), learned)
    assert RANKS[fold(before, [late]).status] >= RANKS[before.status]


@settings(max_examples=300)
@given(st.lists(facts, max_size=6))
def test_folding_nothing_or_the_same_again_changes_nothing(learned: list[Fact]) -> None:
    state = fold(CallState(), learned)
    assert fold(state, []) == state
    assert fold(state, learned) == state


@pytest.mark.parametrize(("first", "second"), list(product(CallStatus, CallStatus)))
def test_of_every_pair_of_statuses_the_higher_rank_wins_in_both_orders(first: CallStatus, second: CallStatus) -> None:
    pair = [Fact(Source.STATUS_UPDATE, T0, first), Fact(Source.STATUS_UPDATE, T0, second)]
    one, other = fold(CallState(), pair), fold(CallState(), pair[::-1])
    assert one == other
    assert RANKS[one.status] == max(RANKS[first], RANKS[second])
    if first in ACTIVE and second in TERMINAL:
        assert one.status is second


def _report(source: Source, reason: str, status: CallStatus) -> Fact:
    return Fact(source, T0, status, reason)


AUTHORITY = [
    Fact(Source.OURS, T0, CallStatus.FAILED, error_code="not_placed"),
    Fact(Source.STATUS_UPDATE, T0, CallStatus.COMPLETED),
    _report(Source.STATUS_UPDATE, "customer-busy", CallStatus.BUSY),
    _report(Source.SNAPSHOT, "voicemail", CallStatus.VOICEMAIL),
    _report(Source.REPORT, "customer-did-not-answer", CallStatus.NO_ANSWER),
    Fact(Source.CANCEL, T0, CallStatus.CANCELLED),
]


@pytest.mark.parametrize("weaker", range(len(AUTHORITY) - 1))
def test_the_verdict_with_more_authority_wins_in_every_order(weaker: int) -> None:
    chosen = AUTHORITY[weaker : weaker + 3]
    for order in permutations(chosen):
        assert fold(CallState(), order).status is chosen[-1].status


def test_of_two_snapshots_of_one_time_the_fuller_result_wins_in_both_orders() -> None:
    said = [f"AI: hi\nUser: hello {word}" for word in ("a", "bc", "def", "ghij")]
    costs = [Decimal("0.9"), Decimal("0.09"), Decimal("0.99"), Decimal("1.2")]
    pairs = zip(said, costs, strict=True)
    told = [Fact(Source.SNAPSHOT, T0, values={"transcript": text, "cost": cost}) for text, cost in pairs]
    for order in permutations(told):
        state = fold(CallState(), order)
        assert (state.transcript, state.cost) == (said[-1], costs[-1])


def test_late_ringing_does_not_reopen_a_completed_call() -> None:
    done = fold(CallState(), [_report(Source.REPORT, "assistant-ended-call", CallStatus.COMPLETED)])
    assert fold(done, [Fact(Source.STATUS_UPDATE, T0, CallStatus.RINGING)]).status is CallStatus.COMPLETED


def test_a_report_after_our_cancel_adds_the_result_and_leaves_the_cancel() -> None:
    cancelled = fold(CallState(), [Fact(Source.CANCEL, T0, CallStatus.CANCELLED)])
    report = Fact(
        Source.REPORT, T0, CallStatus.COMPLETED, "customer-ended-call", values={"transcript": "AI: hi"}, final=True
    )
    state = fold(cancelled, [report])
    assert (state.status, state.ended_reason, state.transcript) == ("cancelled", "customer-ended-call", "AI: hi")
    assert state.final


def test_evidence_from_the_provider_clears_the_code_of_our_own_verdict() -> None:
    lost = fold(CallState(), [Fact(Source.OURS, T0, CallStatus.FAILED, error_code="not_placed", error_message="x")])
    state = fold(lost, [_report(Source.STATUS_UPDATE, "assistant-ended-call", CallStatus.COMPLETED)])
    assert (state.status, state.error_code, state.error_message) == ("completed", None, None)


@pytest.mark.parametrize(
    ("reason", "analysed", "outcome"),
    [
        ("customer-busy", None, "busy"),
        ("customer-did-not-answer", "success", "no_answer"),
        ("voicemail", None, "voicemail"),
        ("assistant-ended-call", "not_interested", "not_interested"),
        ("assistant-ended-call", None, None),
        ("pipeline-error-openai-llm-failed", None, None),
    ],
)
def test_the_outcome_comes_from_the_reason_or_the_analysis_and_is_never_guessed(
    reason: str, analysed: str | None, outcome: str | None
) -> None:
    found = {"analysed_outcome": analysed} if analysed else {}
    fact = Fact(Source.REPORT, T0, CallStatus.COMPLETED, reason, values=found)
    assert fold(CallState(), [fact]).outcome == outcome


def test_a_repeated_fact_is_the_same_line_of_the_timeline() -> None:
    call_id = new_id()
    fact = _report(Source.REPORT, "voicemail", CallStatus.VOICEMAIL)
    assert entry(call_id, fact) == entry(call_id, fact)
    assert entry(call_id, fact).id != entry(new_id(), fact).id
