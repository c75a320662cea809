"""The objective: the fields of a recipe that say what it learns from. Does not import Keras."""

import math
from typing import TYPE_CHECKING, Annotated, Literal

from depthflow.flags import explained, flags, require, require_known
from depthflow.parts import OBJECTIVES

if TYPE_CHECKING:
    ObjectiveName = str
else:
    ObjectiveName = Literal[tuple(OBJECTIVES)]
ScaleName = Literal["velocity", "baseline", "median"]


@flags
class Objective:
    """What a network learns from: depth labels, stereo pairs, video, or labels along with one of these."""

    objective: Annotated[
        tuple[tuple[ObjectiveName, float], ...],
        explained("What is learned from, each with its weight.", OBJECTIVES),
    ] = (("supervised", 1.0),)
    """Names in `OBJECTIVES`, each with its weight."""
    poses: Literal["learned", "given"] = "learned"
    """How the cameras of a video moved. learned: by a second network, which is not registered. given: as the store
    says, so that depth is in metres."""
    scale_from: ScaleName | None = None
    """Where metres come from if a video's poses are learned, which leaves depth known only up to a factor. velocity:
    the distances between its cameras, which the store knows. median: the depth of labelled images. Both are measured on
    training images after each epoch. baseline: states that a stereo pair has metres. Default: the factor stays unknown,
    unless labels are learned, too."""
    auto_mask: bool = True
    """Ignore pixels of a video that the neighbouring image predicts better as it is, unwarped: what moves along with
    the camera, a camera that stands still, and surfaces without texture."""
    min_reprojection: bool = True
    """Take each pixel's error from the neighbour in time that predicts it best, since the other may not see it.
    Otherwise, take the mean."""
    photometric_scale: Literal["full", "own"] = "full"
    """Where the photometric error of a coarse output is computed, with --supervised-scales above 1. full: enlarged to
    the resolution of the image. own: at its own."""
    smoothness: float = 1e-3
    """Weight of the edge-aware smoothness of disparity beside the photometric error."""

    @property
    def objectives(self) -> dict[str, float]:
        """The weight of each objective by name."""
        return dict(self.objective)

    @property
    def views_from(self) -> str | None:
        """stereo or video if the objective needs further views of a sample, which a store of that kind has."""
        return next((name for name, _ in self.objective if name != "supervised"), None)

    @property
    def learns_poses(self) -> bool:
        """Whether a pose network is trained along."""
        return "video" in self.objectives and self.poses == "learned"

    @property
    def output(self) -> Literal["metres", "relative depth"]:
        """What the network predicts in the end; relative depth is metres up to one factor."""
        is_relative = self.learns_poses and "supervised" not in self.objectives and self.scale_from is None
        return "relative depth" if is_relative else "metres"

    def _require(self, field: str, condition: bool, rule: str) -> None:
        """Raises ValueError with the field's flag, its rule and its value unless the condition holds."""
        value = getattr(self, field)
        if isinstance(value, tuple):  # As the command line takes it: l1 1 gradient 0.5.
            value = " ".join(f"{x[0]} {x[1]:g}" if isinstance(x, tuple) else str(x) for x in value) or "none"
        require(condition, f"--{field.replace('_', '-')} {rule}. Received: {value}")

    def _check_objective(self) -> None:
        names = [name for name, _ in self.objective]
        require_known(objective=(names, OBJECTIVES))
        valid = len(names) == len(set(names)) > 0 and all(0 < weight < math.inf for _, weight in self.objective)
        self._require("objective", valid, "takes names, each once, with positive weights: supervised 1 video 0.5")
        valid = not {"stereo", "video"} <= {*names}
        self._require("objective", valid, "takes stereo or video, since a store holds views of one kind")
        valid = self.poses == "learned" or "video" in names
        self._require("poses", valid, f"is only for --objective video, not {' '.join(names)}")
        self._require("smoothness", 0 <= self.smoothness < math.inf, "must be finite, 0 or more")
        for field, default in (("auto_mask", True), ("min_reprojection", True)):
            valid = getattr(self, field) == default or "video" in names
            self._require(field, valid, f"is only for --objective video, not {' '.join(names)}")
        valid = self.photometric_scale == "full" or self.views_from is not None
        self._require("photometric_scale", valid, "is only for --objective stereo or video")
        self._check_scale(names)

    def _check_scale(self, names: list[str]) -> None:
        if self.scale_from == "baseline":
            self._require("scale_from", "stereo" in names, "needs --objective stereo, whose pairs have a baseline")
        elif self.scale_from is not None:
            valid = self.learns_poses and "supervised" not in names
            rule = "is for --objective video with learned poses alone: all else is in metres already"
            self._require("scale_from", valid, rule)
