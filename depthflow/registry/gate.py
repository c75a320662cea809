"""The promotion gate: decides from two evaluations and a policy whether to promote, with reasons."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np

from depthflow.datasets.frames import SCENE_TYPES
from depthflow.errors import RegistryError
from depthflow.models.interface import Output

PRIMARY_METRIC = "abs_rel"
RESAMPLES = 10_000
RESAMPLES_AT_ONCE = 500
"""Resamples held in memory: 500 resamples of 771 images take 3 MB."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """What the gate knows about a model.

    Attributes:
        label: Name for the reasons, such as version 3.
        protocol, fingerprint, samples: What the metrics were computed with.
        output: What it predicts.
        metrics: "all", scene type, or group of a data set (not judged) to metrics.
        errors: Sample ID to abs_rel; NaN for an image without a counted pixel.
        problems: Reasons not to use its predictions.
        image_ms: Milliseconds per predicted image; None if its speed does not count.
    """

    label: str
    protocol: str
    fingerprint: str
    samples: int
    metrics: Mapping[str, Mapping[str, float]]
    errors: Mapping[str, float]
    output: Output = "metres"
    problems: tuple[str, ...] = ()
    image_ms: float | None = None

    @property
    def evidence(self) -> dict[str, Any]:
        """Everything but the errors of single images, for the record."""
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
        output=evaluation.output,
        problems=evaluation.problems,
        image_ms=evaluation.image_ms if is_timed else None,
    )


@dataclass(frozen=True, kw_only=True)
class Policy:
    """When a challenger is better.

    Attributes:
        margin: Fraction by which its abs_rel must be lower.
        tolerance: Fraction by which its abs_rel may be higher on one scene type.
        confidence: Confidence that its abs_rel is lower at all.
        max_latency_ratio: Largest ratio of its time per image to the champion's.
    """

    margin: float
    tolerance: float
    confidence: float
    max_latency_ratio: float

    @classmethod
    def of(cls, flags: object) -> "Policy":
        """Takes each value from the flag of the same name."""
        return cls(**{field.name: getattr(flags, field.name) for field in fields(cls)})


class Interval(NamedTuple):
    """An estimate and its confidence interval."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What the gate decided.

    Attributes:
        promote: Whether the challenger becomes champion.
        reasons: Why, or why not; never empty.
        improvement: Fraction by which abs_rel is lower.
    """

    promote: bool
    reasons: tuple[str, ...]
    improvement: Interval


def decide(*, challenger: Candidate, champion: Candidate, policy: Policy) -> Decision:
    """Promotes only a challenger that is better by the margin and not by luck, nowhere much worse, sane and fast.

    A challenger that lacks the champion's metres is never promoted.

    Args:
        champion: The model in use, or the mean-depth baseline if there is none.

    Raises:
        RegistryError: if the two were not evaluated on the same protocol, store and samples.
    """
    _check_comparable(challenger, champion)
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
    against += _without_metres(challenger, champion)
    against += _worse_scene_types(challenger, champion, tolerance=policy.tolerance)
    against += _too_slow(challenger, champion, max_ratio=policy.max_latency_ratio)
    if against:
        return Decision(promote=False, reasons=tuple(against), improvement=improvement)
    return Decision(promote=True, reasons=(f"{comparison}: {found}",), improvement=improvement)


def _check_comparable(challenger: Candidate, champion: Candidate) -> None:
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


def _without_metres(challenger: Candidate, champion: Candidate) -> list[str]:
    """Returns the reason if a model of unknown scale would replace a metric one.

    Programs that load the alias would take its values for metres, however good its shapes are. A metric model may
    replace one of unknown scale: metres are relative depth, too.
    """
    if challenger.output == "metres" or champion.output != "metres":
        return []
    return [
        f"{challenger.label} predicts {challenger.output}, and users of {champion.label} rely on metres: train it with "
        "a scale, or register it under another --model-name"
    ]


def _worse_scene_types(challenger: Candidate, champion: Candidate, *, tolerance: float) -> list[str]:
    """Returns a reason for each scene type on which the challenger exceeds the tolerance."""
    reasons = []
    for scene_type in (name for name in SCENE_TYPES if name in challenger.metrics):
        ours, theirs = (c.metrics[scene_type][PRIMARY_METRIC] for c in (challenger, champion))
        if not math.isnan(theirs) and not ours <= theirs * (1 + tolerance):
            allowed = f"more than {tolerance:.1%} over {theirs:.4f}"
            reasons.append(f"{scene_type}: {PRIMARY_METRIC} {ours:.4f} is {allowed} of {champion.label}")
    return reasons


def _too_slow(challenger: Candidate, champion: Candidate, *, max_ratio: float) -> list[str]:
    """Returns the reason if an image takes too long; none if one of the two was not timed."""
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
    """Returns the fraction by which the challenger's mean error is lower, with its confidence interval.

    Images are resampled with replacement, each with both models' errors, and the interval is that between percentiles
    of the fraction. The draws are always the same, so the same metrics give the same decision.

    Args:
        challenger, champion: (n,) float errors of the same n images; both NaN for an image that was not measured.
        confidence: Confidence of the interval, such as 0.95.

    Returns:
        The interval; NaN if there is no image, or if only one model has an error for some image.

    Source: Efron and Tibshirani 1993, chapter 8.
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
