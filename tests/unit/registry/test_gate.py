"""The promotion gate: a table of challengers and champions, by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from depthflow.errors import RegistryError
from depthflow.registry.gate import Candidate, Decision, Policy, decide, paired_bootstrap

POLICY = Policy(margin=0.01, tolerance=0.05, confidence=0.95, max_latency_ratio=1.5)
NAN = math.nan
HARDNESS = np.random.default_rng(0).lognormal(0, 0.5, 40)
"""How hard each of forty images is, for all models alike."""


def candidate(label: str, everything: float, indoors: float = NAN, outdoor: float = NAN, **changes) -> Candidate:
    """A model by its abs_rel over all images, indoors and outdoor."""
    metrics = {
        name: {"abs_rel": value, "rmse": 1.0}
        for name, value in {"all": everything, "indoors": indoors, "outdoor": outdoor}.items()
    }
    errors = {f"image {k}": everything * share for k, share in enumerate(HARDNESS / HARDNESS.mean())}
    facts = {"protocol": "devkit", "fingerprint": "f00", "samples": 40, "metrics": metrics, "errors": errors}
    return Candidate(label=label, **{**facts, **changes})


def outcome(challenger: tuple[float, ...], champion: tuple[float, ...], policy: Policy = POLICY) -> Decision:
    return decide(
        challenger=candidate("version 2", *challenger), champion=candidate("version 1", *champion), policy=policy
    )


@pytest.mark.parametrize(
    ("challenger", "champion", "promoted"),
    [
        ("relative depth", "metres", False),
        ("relative depth", "relative depth", True),
        ("metres", "relative depth", True),
        ("metres", "metres", True),
    ],
)
def test_no_model_of_unknown_scale_replaces_one_of_metres(challenger, champion, promoted):
    """However much better its shapes are: users of the champion rely on metres."""
    new, old = candidate("version 2", 0.1, output=challenger), candidate("version 1", 0.2, output=champion)
    decision = decide(challenger=new, champion=old, policy=POLICY)
    assert decision.promote == promoted
    if not promoted:
        [reason] = decision.reasons
        assert reason.startswith("version 2 predicts relative depth, and users of version 1 rely on metres: ")
    assert new.evidence["output"] == challenger


def test_a_single_data_set_is_not_judged():
    better, worse = {"abs_rel": 0.1}, {"abs_rel": 0.9}
    new, old = candidate("version 2", 0.1, 0.1, 0.1), candidate("version 1", 0.2, 0.2, 0.2)
    new = replace(new, metrics={**new.metrics, "dataset tum": worse})
    old = replace(old, metrics={**old.metrics, "dataset tum": better})
    assert decide(challenger=new, champion=old, policy=POLICY).promote


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
    assert not outcome(*better_by_half, replace(POLICY, tolerance=0.05)).promote
    assert outcome(*better_by_half, replace(POLICY, tolerance=0.15)).promote
    assert not outcome(*better_by_half, replace(POLICY, margin=0.6, tolerance=0.15)).promote


@pytest.mark.parametrize("problem", ["some predictions are not finite", "every prediction is one constant depth"])
def test_insane_predictions_are_refused_whatever_the_figures(problem):
    challenger = candidate("version 2", 0.01, 0.01, 0.01, problems=(problem,))
    decision = decide(challenger=challenger, champion=candidate("version 1", 0.2, 0.2, 0.2), policy=POLICY)
    assert (decision.promote, decision.reasons) == (False, (f"version 2: {problem}",))


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
    decision = outcome(
        (new, new_in, new_out), (old, old_in, old_out), replace(POLICY, margin=margin, tolerance=tolerance)
    )
    assert decision.reasons
    if decision.promote:
        assert new <= old * (1 - margin)
        for ours, theirs in ((new_in, old_in), (new_out, old_out)):
            assert math.isnan(theirs) or ours <= theirs * (1 + tolerance)


def test_equal_is_never_better():
    assert not outcome((0.20, 0.20, 0.20), (0.20, 0.20, 0.20), replace(POLICY, margin=0.0)).promote


def test_other_images_cannot_be_compared():
    challenger = candidate("version 2", 0.1, errors={"another image": 0.1})
    with pytest.raises(RegistryError, match="different samples"):
        decide(challenger=challenger, champion=candidate("version 1", 0.2), policy=POLICY)


@pytest.mark.parametrize(
    ("new_ms", "old_ms", "promoted"),
    [
        (10.0, 10.0, True),
        (15.0, 10.0, True),
        (15.1, 10.0, False),
        (1.0, 10.0, True),
        (99.0, None, True),
        (None, 1.0, True),
    ],
)
def test_latency(new_ms, old_ms, promoted):
    challenger, champion = candidate("version 2", 0.1, image_ms=new_ms), candidate("version 1", 0.2, image_ms=old_ms)
    decision = decide(challenger=challenger, champion=champion, policy=POLICY)
    assert decision.promote is promoted
    if not promoted:
        assert decision.reasons == (
            "an image takes 15.1 ms, 1.51 times as long as with version 1: more than 1.5 times",
        )


# --- luck ---


def noisy(mean: float, *, images: int, seed: int, spread: float) -> np.ndarray:
    """Errors whose mean is exact and which differ from image to image."""
    errors = mean + np.random.default_rng(seed).normal(0, spread, images)
    return errors - errors.mean() + mean


def decided(new: np.ndarray, old: np.ndarray) -> Decision:
    models = [
        candidate(label, errors.mean(), errors={str(k): error for k, error in enumerate(errors)})
        for label, errors in (("version 2", new), ("version 1", old))
    ]
    return decide(challenger=models[0], champion=models[1], policy=POLICY)


def test_better_on_average_by_luck_is_refused():
    """3% better, but the images disagree so much that another draw could say the opposite."""
    decision = decided(noisy(0.194, images=40, seed=1, spread=0.05), noisy(0.2, images=40, seed=2, spread=0.05))
    assert not decision.promote
    assert len(decision.reasons) == 1 and "it may be luck" in decision.reasons[0]
    assert decision.improvement.low < 0 < decision.improvement.estimate == pytest.approx(0.03)


def test_the_same_difference_on_every_image_is_no_luck():
    """Images differ far more than the models do: pairing sees it."""
    old = noisy(0.2, images=40, seed=2, spread=0.05)
    decision = decided(0.97 * old, old)
    assert decision.promote
    assert decision.improvement.low == pytest.approx(0.03)


def test_interval_covers_the_truth_as_often_as_it_says():
    """Two equal models, many times: about one decision in twenty is on either side of the interval."""
    draws = np.random.default_rng(5)
    intervals = [paired_bootstrap(*(0.2 + 0.05 * draws.standard_normal((2, 60))), confidence=0.9) for _ in range(200)]
    missed = sum(not interval.low <= 0 <= interval.high for interval in intervals)
    assert 8 <= missed <= 36, "a tenth of 200, give or take what chance and sixty images allow"


def test_bootstrap_is_the_same_each_time_and_leaves_out_what_was_not_measured():
    new, old = noisy(0.1, images=30, seed=1, spread=0.02), noisy(0.2, images=30, seed=2, spread=0.02)
    first = paired_bootstrap(new, old, confidence=0.95)
    assert first == paired_bootstrap(new, old, confidence=0.95)
    assert first == paired_bootstrap(np.append(new, NAN), np.append(old, NAN), confidence=0.95)
    assert first.low < first.estimate < first.high
    assert first.estimate == pytest.approx(0.5)
    assert math.isnan(paired_bootstrap(np.append(new, NAN), np.append(old, 1.0), confidence=0.95).low)
    assert math.isnan(paired_bootstrap(np.array([]), np.array([]), confidence=0.95).low)
