"""What a job's record says of the pre-trained weights that it starts from."""

from pathlib import Path

from depthflow.models.interface import LICENCE_TAG, file_sha256
from depthflow.models.transformers_folder import TransformersFolder, licence_of, open_transformers
from depthflow.parts import is_transformer
from depthflow.recipe import Recipe


def open_pretrained(recipe: Recipe) -> TransformersFolder | None:
    """Opens the transformers model that a recipe starts from; returns None if it starts from none.

    Raises:
        WeightsError: if it cannot be had or is damaged.
    """
    return open_transformers(recipe.weights) if is_transformer(recipe.encoder) and recipe.weights != "none" else None


def weights_tags(recipe: Recipe) -> dict[str, str]:
    """Returns tags of a run: checksum, licence and commit of its pre-trained weights, as far as they are known."""
    folder = open_pretrained(recipe)
    if folder is None:
        return {} if recipe.weights in ("imagenet", "none") else {"weights.sha256": file_sha256(Path(recipe.weights))}
    revision = {"weights.revision": folder.revision} if folder.revision else {}
    return {"weights.sha256": folder.sha256, **licence_tags(recipe), **revision}


def licence_tags(recipe: Recipe) -> dict[str, str]:
    """Returns the tag of a run or version that says under which licence its pre-trained weights are, if it is known."""
    licence = licence_of(recipe.weights)
    return {LICENCE_TAG: licence} if licence else {}
