"""The promotion gate: a table of challengers and champions, by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from depthflow.errors import RegistryError
from depthflow.registry.gate import Candidate, Decision, Policy, decide

POLICY = Policy(margin=0.01, tolerance=0.05)
NAN = math.nan


def candidate(label: str, everything: float, indoors: float = NAN, outdoor: float = NAN, **changes) -> Candidate:
    """A model by its abs_rel over all images, indoors and outdoor."""
    figures = {
        name: {"abs_rel": value, "rmse": 1.0}
        for name, value in {"all": everything, "indoors": indoors, "outdoor": outdoor}.items()
    }
    facts = {"protocol": "devkit", "fingerprint": "f00", "samples": 40, "figures": figures}
    return Candidate(label=label, **{**facts, **changes})


def outcome(challenger: tuple[float, ...], champion: tuple[float, ...], policy: Policy = POLICY) -> Decision:
    return decide(
        challenger=candidate("version 2", *challenger), champion=candidate("version 1", *champion), policy=policy
    )


@pytest.mark.parametrize(
    ("challenger", "champion", "promoted"),
    [
        pytest.param((0.10, 0.10, 0.10), (0.20, 0.20, 0.20), True, id="better"),
        pytest.param((0.30, 0.30, 0.30), (0.20, 0.20, 0.20), False, id="worse"),
        pytest.param((0.20, 0.20, 0.20), (0.20, 0.20, 0.20), False, id="equal"),
        pytest.param((0.1985, 0.1985, 0.1985), (0.20, 0.20, 0.20), False, id="better by less than the margin"),
        pytest.param((0.1979, 0.1979, 0.1979), (0.20, 0.20, 0.20), True, id="better by just over the margin"),
        pytest.param((0.15, 0.09, 0.211), (0.20, 0.20, 0.20), False, id="better on average, worse outdoor"),
        pytest.param((0.15, 0.211, 0.09), (0.20, 0.20, 0.20), False, id="better on average, worse indoors"),
        pytest.param((0.15, 0.09, 0.209), (0.20, 0.20, 0.20), True, id="worse outdoor within the tolerance"),
        pytest.param((0.10, 0.10, NAN), (0.20, 0.20, NAN), True, id="no outdoor images at all"),
        pytest.param((0.10, 0.30, NAN), (0.20, 0.20, NAN), False, id="no outdoor images, worse indoors"),
        pytest.param((NAN, 0.10, 0.10), (0.20, 0.20, 0.20), False, id="challenger NaN over all"),
        pytest.param((0.10, 0.10, NAN), (0.20, 0.20, 0.20), False, id="challenger NaN outdoor alone"),
        pytest.param((NAN, NAN, NAN), (0.20, 0.20, 0.20), False, id="challenger NaN everywhere"),
        pytest.param((math.inf, 0.10, 0.10), (0.20, 0.20, 0.20), False, id="challenger infinite"),
        pytest.param((NAN, NAN, NAN), (NAN, NAN, NAN), False, id="both NaN"),
        pytest.param((0.10, 0.10, 0.10), (NAN, NAN, NAN), False, id="champion NaN: by hand, with --force"),
    ],
)
def test_table(challenger, champion, promoted):
    decision = outcome(challenger, champion)
    assert decision.promote is promoted
    assert decision.reasons and all(decision.reasons)


def test_reasons_name_models_figures_and_scene_types():
    decision = outcome((0.21, 0.10, 0.32), (0.20, 0.30, 0.10))
    assert not decision.promote
    first, second = decision.reasons
    assert "abs_rel 0.2100 of version 2 against 0.2000 of version 1" in first and "1.0%" in first
    assert "outdoor: abs_rel 0.3200" in second and "5.0% over 0.1000" in second
    promoted = outcome((0.10, 0.10, 0.10), (0.20, 0.20, 0.20))
    assert "abs_rel 0.1000 of version 2 against 0.2000 of version 1" in promoted.reasons[0]


def test_policy_is_what_decides():
    better_by_half = (0.10, 0.10, 0.22), (0.20, 0.20, 0.20)
    assert not outcome(*better_by_half, Policy(margin=0.01, tolerance=0.05)).promote
    assert outcome(*better_by_half, Policy(margin=0.01, tolerance=0.15)).promote
    assert not outcome(*better_by_half, Policy(margin=0.6, tolerance=0.15)).promote


@pytest.mark.parametrize("problem", ["some predictions are not finite", "every prediction is one constant depth"])
def test_insane_predictions_are_refused_whatever_the_figures(problem):
    challenger = candidate("version 2", 0.01, 0.01, 0.01, problems=(problem,))
    decision = decide(challenger=challenger, champion=candidate("version 1", 0.2, 0.2, 0.2), policy=POLICY)
    assert decision == Decision(promote=False, reasons=(f"version 2: {problem}",))


def test_a_champions_problems_do_not_protect_it():
    """The mean-depth baseline is constant, and is to be beaten all the same."""
    baseline = candidate("the baseline", 0.2, 0.2, 0.2, problems=("every prediction is one constant depth",))
    assert decide(challenger=candidate("version 1", 0.1, 0.1, 0.1), champion=baseline, policy=POLICY).promote


@pytest.mark.parametrize(
    ("name", "other"), [("protocol", "median"), ("fingerprint", "beef"), ("samples", 41)], ids=lambda value: str(value)
)
def test_figures_of_another_kind_cannot_be_compared(name, other):
    challenger = candidate("version 2", 0.1, 0.1, 0.1, **{name: other})
    with pytest.raises(RegistryError, match=rf"different {name}.*version 2 {other}.*version 1 .*one store"):
        decide(challenger=challenger, champion=candidate("version 1", 0.2, 0.2, 0.2), policy=POLICY)


abs_rels = st.one_of(st.floats(0.001, 10.0), st.just(NAN))


@given(abs_rels, abs_rels, abs_rels, abs_rels, abs_rels, abs_rels, st.floats(0, 0.5), st.floats(0, 0.5))
def test_promotion_is_never_a_loss(new, new_in, new_out, old, old_in, old_out, margin, tolerance):
    """Whatever the figures: who is promoted is better on the whole and measured wherever the champion was."""
    decision = outcome((new, new_in, new_out), (old, old_in, old_out), Policy(margin=margin, tolerance=tolerance))
    assert decision.reasons
    if decision.promote:
        assert new <= old * (1 - margin)
        for ours, theirs in ((new_in, old_in), (new_out, old_out)):
            assert math.isnan(theirs) or ours <= theirs * (1 + tolerance)


def test_equal_is_never_better():
    assert not outcome((0.20, 0.20, 0.20), (0.20, 0.20, 0.20), Policy(margin=0.0, tolerance=0.05)).promote
