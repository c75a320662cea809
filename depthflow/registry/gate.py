"""The promotion gate: a pure function from two evaluations and a policy to a decision with reasons."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from depthflow.errors import RegistryError

PRIMARY_METRIC = "abs_rel"
RESAMPLES = 10_000
RESAMPLES_AT_ONCE = 500
"""What is held in memory: 500 resamples of 771 images are 3 MB."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """What the gate knows of a model.

    Attributes:
        label: for the reasons, such as version 3.
        protocol, fingerprint, samples: what the metrics were made with.
        metrics: all, indoors, outdoor to metrics.
        errors: sample id to its abs_rel; NaN where an image has no counted pixel.
        problems: why its predictions are not sane.
        image_ms: how long it takes to predict an image, measured beside the other; None where that says nothing.
    """

    label: str
    protocol: str
    fingerprint: str
    samples: int
    metrics: Mapping[str, Mapping[str, float]]
    errors: Mapping[str, float]
    problems: tuple[str, ...] = ()
    image_ms: float | None = None

    @property
    def evidence(self) -> dict[str, Any]:
        """What a decision's record keeps: everything but the errors of single images."""
        kept = {name: value for name, value in vars(self).items() if name != "errors"}
        return {"figures" if name == "metrics" else name: value for name, value in kept.items()}


def candidate(label: str, evaluation: Any, *, is_timed: bool) -> Candidate:
    """Returns what the gate compares of an `Evaluation`.

    Args:
        is_timed: Whether its speed counts. The baseline computes nothing.
    """
    return Candidate(
        label=label,
        protocol=evaluation.protocol,
        fingerprint=evaluation.fingerprint,
        samples=evaluation.samples,
        metrics=evaluation.metrics,
        errors={image["sample_id"]: image[PRIMARY_METRIC] for image in evaluation.images},
        problems=evaluation.problems,
        image_ms=evaluation.image_ms if is_timed else None,
    )


@dataclass(frozen=True, kw_only=True)
class Policy:
    """When a challenger is better.

    Attributes:
        margin: share by which its abs_rel must be lower.
        tolerance: share by which its abs_rel may be higher on one scene type.
        confidence: with which its abs_rel must be lower at all, were other images drawn.
        max_latency_ratio: how many times as long as the champion it may take for an image.
    """

    margin: float
    tolerance: float
    confidence: float
    max_latency_ratio: float


class Interval(NamedTuple):
    """An estimate and the bounds that hold it with the confidence asked for."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What the gate decided.

    Attributes:
        promote: whether the challenger becomes champion.
        reasons: why, or why not; never empty.
        improvement: the share by which abs_rel is lower, as the images at hand support it.
    """

    promote: bool
    reasons: tuple[str, ...]
    improvement: Interval


def decide(*, challenger: Candidate, champion: Candidate, policy: Policy) -> Decision:
    """Promotes only a challenger that is better by the margin and not by luck, nowhere much worse, sane and fast.

    Args:
        champion: the one in use, or the mean-depth baseline where there is none.

    Raises:
        RegistryError: if the two were not evaluated on the same protocol, store and samples.
    """
    _refuse_incomparable(challenger, champion)
    ids = sorted(challenger.errors)
    improvement = paired_bootstrap(
        np.array([challenger.errors[name] for name in ids]),
        np.array([champion.errors[name] for name in ids]),
        confidence=policy.confidence,
    )
    new, old = (candidate.metrics["all"][PRIMARY_METRIC] for candidate in (challenger, champion))
    comparison = f"{PRIMARY_METRIC} {new:.4f} of {challenger.label} against {old:.4f} of {champion.label}"
    found = f"{improvement.estimate:.1%} lower, {improvement.low:.1%} to {improvement.high:.1%}"
    against = [f"{challenger.label}: {problem}" for problem in challenger.problems]
    if not (new < old and new <= old * (1 - policy.margin)):
        against.append(f"{comparison}: not lower by the margin of {policy.margin:.1%}")
    elif not improvement.low > 0:
        against.append(f"{PRIMARY_METRIC} is {found} with confidence {policy.confidence:.0%}: it may be luck")
    against += _where_worse(challenger, champion, tolerance=policy.tolerance)
    against += _if_slow(challenger, champion, max_ratio=policy.max_latency_ratio)
    if against:
        return Decision(promote=False, reasons=tuple(against), improvement=improvement)
    return Decision(promote=True, reasons=(f"{comparison}: {found}",), improvement=improvement)


def _refuse_incomparable(challenger: Candidate, champion: Candidate) -> None:
    for name in ("protocol", "fingerprint", "samples"):
        ours, theirs = getattr(challenger, name), getattr(champion, name)
        if ours != theirs:
            raise RegistryError(
                f"Metrics of different {name} cannot be compared: {challenger.label} {ours}, {champion.label} "
                f"{theirs}. Evaluate both on one store with one protocol."
            )
    if challenger.errors.keys() != champion.errors.keys():
        raise RegistryError(
            f"{challenger.label} and {champion.label} were evaluated on different samples. Evaluate both in one run."
        )


def _where_worse(challenger: Candidate, champion: Candidate, *, tolerance: float) -> list[str]:
    """A reason for each scene type on which the challenger is worse than may be."""
    reasons = []
    for scene_type in sorted(challenger.metrics.keys() - {"all"}):
        ours, theirs = (c.metrics[scene_type][PRIMARY_METRIC] for c in (challenger, champion))
        if not math.isnan(theirs) and not ours <= theirs * (1 + tolerance):
            allowed = f"more than {tolerance:.1%} over {theirs:.4f}"
            reasons.append(f"{scene_type}: {PRIMARY_METRIC} {ours:.4f} is {allowed} of {champion.label}")
    return reasons


def _if_slow(challenger: Candidate, champion: Candidate, *, max_ratio: float) -> list[str]:
    """The reason, if an image takes too long; none where one of the two was not timed."""
    if not (challenger.image_ms and champion.image_ms):
        return []
    ratio = challenger.image_ms / champion.image_ms
    if not ratio > max_ratio:
        return []
    return [
        f"an image takes {challenger.image_ms:.1f} ms, {ratio:.2f} times as long as with {champion.label}: "
        f"more than {max_ratio:g} times"
    ]


def paired_bootstrap(challenger: np.ndarray, champion: np.ndarray, *, confidence: float) -> Interval:
    """The share by which the challenger's mean error is lower, and how far the images at hand support it.

    Images are drawn anew with replacement, each with both models' errors (Efron and Tibshirani 1993, chapter 8), and
    the percentiles of the share are taken. Always the same draws: the same metrics give the same decision.

    Args:
        challenger, champion: (n,) float errors of the same n images; where both are NaN, nothing was measured.
        confidence: of the interval, such as 0.95.

    Returns:
        NaN where there is no image, or where one model has no error for one that the other has.
    """
    measured = ~(np.isnan(challenger) & np.isnan(champion))
    new, old = challenger[measured], champion[measured]
    if not (new.size and np.isfinite(new).all() and np.isfinite(old).all()):
        return Interval(math.nan, math.nan, math.nan)
    draws = np.random.default_rng(0)
    shares = []
    for _ in range(RESAMPLES // RESAMPLES_AT_ONCE):
        chosen = draws.integers(0, new.size, (RESAMPLES_AT_ONCE, new.size))
        shares.append(1 - new[chosen].mean(axis=1) / old[chosen].mean(axis=1))
    low, high = np.quantile(np.concatenate(shares), [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(1 - new.mean() / old.mean()), float(low), float(high))
