"""Finds a model as named on the command line: a registered model, a folder, an exported network, or Depth Anything."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from depthflow.errors import RegistryError
from depthflow.inference import depth_anything
from depthflow.inference.exported import is_exported, load_exported, read_facts
from depthflow.inference.predictor import ConstantPredictor, find_network, load_predictor
from depthflow.inference.tiles import TiledPredictor
from depthflow.models.canonical_camera import ModelCamera
from depthflow.models.interface import LoadPredictor, Output
from depthflow.models.transformers_folder import open_transformers
from depthflow.observability.logs import tell
from depthflow.registry.versions import CHALLENGER, ResolvedModel, resolve_model


@dataclass(frozen=True, kw_only=True)
class NamedModel:
    """A model that any of Ray's processes can load.

    Attributes:
        uri: URI as given, or models:/NAME/VERSION instead of an alias.
        load: Loads the predictor.
        output: What it predicts.
        resolved: What the registry knows about it; None for Depth Anything, exported networks and the baseline.
        camera: What it knows about cameras.
    """

    uri: str
    load: LoadPredictor
    output: Output
    resolved: ResolvedModel | None
    camera: ModelCamera = field(default_factory=ModelCamera)

    def load_tiled(self, tile_px: int | None) -> LoadPredictor:
        """Returns a function that loads the model; with `tile_px`, as a `TiledPredictor` unless of inverse depth."""
        if tile_px is None or self.output == "relative inverse depth":
            return self.load
        return lambda: TiledPredictor(self.load(), tile_px=tile_px)

    @property
    def version(self) -> str | None:
        """Version in the registry, if it is registered."""
        registered = self.resolved.version if self.resolved else None
        return registered.version if registered else None

    def baseline(self, *, is_aligned: bool) -> "NamedModel | None":
        """Returns a model that predicts the mean depth of this one's training data everywhere.

        Where predictions are aligned, any constant depth is as good. It stands in if that mean depth is unknown, as
        after training without depth, and for a registered model whose own scale is unknown.

        Args:
            is_aligned: Whether the evaluation scales predictions to each image's truth.

        Returns:
            The baseline; None if there is none to compare with.
        """
        depth_m = self.resolved.baseline_depth_m if self.resolved and self.output == "metres" else None
        if depth_m is not None:
            return NamedModel(uri="mean depth", load=lambda: ConstantPredictor(depth_m), output="metres", resolved=None)
        if self.version is None or (self.output == "metres" and not is_aligned):
            return None
        output = self.output
        return NamedModel(
            uri="constant depth", load=lambda: ConstantPredictor(1.0, output), output=output, resolved=None
        )


def find_models(names: Sequence[str]) -> list[NamedModel]:
    """Finds models to compare.

    Raises:
        RegistryError: if there is no such model, or two are the same.
        WeightsError: if a Depth Anything cannot be had, or is damaged or another model.
    """
    models = [find_model(name) for name in names]
    uris = [model.uri for model in models]
    if len(set(uris)) < len(uris):
        raise RegistryError(f"--model and --compare name a model twice. Received: {', '.join(uris)}. Leave one out.")
    return models


def find_rivals(model_name: str, champion: str | None, *, is_aligned: bool) -> tuple[NamedModel, NamedModel]:
    """Finds a registered model's challenger, and the model to compare it with: the champion or else the baseline.

    Args:
        champion: Version that is champion now.
        is_aligned: Whether the evaluation scales predictions to each image's truth.

    Raises:
        RegistryError: if there is no challenger, it is the champion, or there is nothing to compare it with.
    """
    challenger = find_model(f"models:/{model_name}@{CHALLENGER}")
    if champion is not None:
        rival = find_model(f"models:/{model_name}/{champion}")
        if rival.uri == challenger.uri:
            raise RegistryError(f"The challenger, {rival.uri}, is the champion already. Train a new version first.")
        return challenger, rival
    baseline = challenger.baseline(is_aligned=is_aligned)
    if baseline is None:
        raise RegistryError(
            f"{challenger.uri} has no baseline_depth_m tag, and there is no champion to compare with. Register one "
            "with train.py, which sets the tag if the training data have depth; or pass --protocol median, under which "
            "any constant depth is the baseline."
        )
    return challenger, replace(baseline, uri=f"the {baseline.uri.replace(' ', '-')} baseline")


def find_model(name: str) -> NamedModel:
    """Finds a model.

    Args:
        name: models:/NAME@ALIAS, models:/NAME/VERSION, runs:/..., a folder, an exported network,
            depth-anything-v2-small, or depth-anything: followed by a folder or a name on the Hugging Face hub.

    Raises:
        RegistryError: if there is no such model.
        WeightsError: if a Depth Anything cannot be had, or is damaged or another model.
    """
    if depth_anything.is_depth_anything(name):
        folder = depth_anything.open_depth_anything(name)
        place, output = folder.place, depth_anything.output_of(folder)
        tell(folder.origin)
        return NamedModel(
            uri=name,
            load=lambda: depth_anything.DepthAnythingPredictor(open_transformers(place)),
            output=output,
            resolved=None,
        )
    if is_exported(name):
        path = str(Path(name).absolute())
        facts = read_facts(path)
        return NamedModel(
            uri=path, load=lambda: load_exported(path), output=facts.output, resolved=None, camera=facts.camera
        )
    resolved = resolve_model(name)
    network = find_network(resolved.download(), sha256=resolved.network_sha256)
    return NamedModel(
        uri=resolved.uri,
        load=lambda: load_predictor(resolved.download(), sha256=resolved.network_sha256),
        output=network.output,
        resolved=resolved,
        camera=network.camera,
    )
