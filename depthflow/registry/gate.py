"""The promotion gate: a pure function from two evaluations and a policy to a decision with reasons."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from depthflow.errors import RegistryError

PRIMARY_METRIC = "abs_rel"


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """What the gate knows of a model.

    Attributes:
        label: for the reasons, such as version 3.
        protocol, fingerprint, samples: what the figures were made with.
        figures: all, indoors, outdoor to metrics.
        problems: why its predictions are not sane.
    """

    label: str
    protocol: str
    fingerprint: str
    samples: int
    figures: Mapping[str, Mapping[str, float]]
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Policy:
    """When a challenger is better.

    Attributes:
        margin: share by which its abs_rel must be lower.
        tolerance: share by which its abs_rel may be higher on one scene type.
    """

    margin: float
    tolerance: float


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What the gate decided.

    Attributes:
        promote: whether the challenger becomes champion.
        reasons: why, or why not; never empty.
    """

    promote: bool
    reasons: tuple[str, ...]


def decide(*, challenger: Candidate, champion: Candidate, policy: Policy) -> Decision:
    """Promotes only a challenger that is better by the margin, on no scene type worse than the tolerance, and sane.

    Args:
        champion: the one in use, or the mean-depth baseline where there is none.

    Raises:
        RegistryError: if the two were not evaluated on the same protocol, store and number of samples.
    """
    for name in ("protocol", "fingerprint", "samples"):
        ours, theirs = getattr(challenger, name), getattr(champion, name)
        if ours != theirs:
            raise RegistryError(
                f"Figures of different {name} cannot be compared: {challenger.label} {ours}, {champion.label} "
                f"{theirs}. Evaluate both on one store with one protocol."
            )
    against = [f"{challenger.label}: {problem}" for problem in challenger.problems]
    new, old = (candidate.figures["all"][PRIMARY_METRIC] for candidate in (challenger, champion))
    comparison = f"{PRIMARY_METRIC} {new:.4f} of {challenger.label} against {old:.4f} of {champion.label}"
    if not (new < old and new <= old * (1 - policy.margin)):
        against.append(f"{comparison}: not lower by the margin of {policy.margin:.1%}")
    for scene_type in sorted(challenger.figures.keys() - {"all"}):
        ours, theirs = (c.figures[scene_type][PRIMARY_METRIC] for c in (challenger, champion))
        if not math.isnan(theirs) and not ours <= theirs * (1 + policy.tolerance):
            allowed = f"more than {policy.tolerance:.1%} over {theirs:.4f}"
            against.append(f"{scene_type}: {PRIMARY_METRIC} {ours:.4f} is {allowed} of {champion.label}")
    if against:
        return Decision(promote=False, reasons=tuple(against))
    return Decision(promote=True, reasons=(f"{comparison}: lower by the margin of {policy.margin:.1%}",))
