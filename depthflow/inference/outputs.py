"""The files of each image: which ones, where, under which name, and which of them are ours to replace."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from depthflow.datasets.reject import RejectError
from depthflow.errors import RegistryError, SourceError
from depthflow.inference.config import PredictConfig
from depthflow.inference.formats import FORMATS
from depthflow.inference.images import image_version
from depthflow.inference.lens import Lens
from depthflow.inference.named_model import NamedModel
from depthflow.models.interface import Output
from depthflow.storage.files import StoreFiles, open_files, open_output
from depthflow.storage.location import absolute

SIDECAR = "depth.json"
"""Ending of the file that lists an image's files. It is written before them, and once more, complete, after them."""
COMPARISON = "compare.png"
"""Ending of the plot that compares models."""


ENDINGS = {COMPARISON, *(ending for one in FORMATS.values() for ending in one.endings.values())}


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What to write for each image.

    Attributes:
        folder: Absolute folder, s3:// or gs:// URI.
        kinds: Names in `FORMATS`.
        model: URI of the model, for the sidecar.
        output: What the model predicts.
        lens: What the user states of the images' camera; None if nothing.
        median_focal: Median focal length of the model's training images, relative to the image size; None if unknown.
        max_depth_m: Depth in metres beyond which predictions are not believed; None for no limit.
        settings: Anything else the files depend on, for the sidecar.
        compared: Whether a plot that compares models is drawn from the files.
    """

    folder: str
    kinds: tuple[str, ...]
    model: str
    output: Output
    lens: Lens | None
    settings: Mapping[str, Any]
    median_focal: float | None = None
    max_depth_m: float | None = None
    compared: bool = False

    def files(self, name: str) -> list[str]:
        """Returns the names of an image's files in the folder."""
        return [f"{name}.{FORMATS[kind].endings[self.output]}" for kind in self.kinds]

    def reserved(self, name: str) -> list[str]:
        """Returns the names of all files that a run makes of an image, except for its sidecar."""
        return [*self.files(name), *[f"{name}.{COMPARISON}"] * self.compared]

    def claim(self, path: str, name: str) -> set[str]:
        """Returns the names of the files that earlier runs made of an image: no others are replaced or removed.

        Raises:
            RejectError: name_taken, if a file of the user's or of another image has a name that this one needs.
        """
        folder, sidecar, made = open_files(self.folder), f"{name}.{SIDECAR}", set[str]()
        if folder.exists(sidecar):
            record = _record(folder, sidecar)
            if record.get("photograph") != path:
                what = f"the files of {record['photograph']}" if record else "something else"
                raise RejectError("name_taken", f"{self.folder}/{sidecar} lists {what}. Pass another --out.")
            made = {*record["outputs"]} & _possible_files(name)
        for file in self.reserved(name):
            if file not in made and folder.exists(file):
                raise RejectError(
                    "name_taken", f"{self.folder}/{file} exists, and predict.py did not make it. Pass another --out."
                )
        return made

    def locations(self, name: str) -> list[str]:
        """Returns the absolute paths or URIs of an image's files."""
        return [f"{self.folder}/{file}" for file in self.files(name)]

    def facts(self, path: str) -> dict[str, Any]:
        """Returns everything that an image's files depend on."""
        return {
            "photograph": path,
            "photograph_version": image_version(path),
            "model": self.model,
            "output": self.output,
            "lens": asdict(self.lens) if self.lens else None,
            "max_depth_m": self.max_depth_m,
            **self.settings,
        }

    def is_done(self, path: str, name: str) -> bool:
        """Returns whether an earlier run left all files of the image, as this run would write them."""
        folder = open_files(self.folder)
        record = _record(folder, f"{name}.{SIDECAR}")
        same = all(key in record and record[key] == value for key, value in self.facts(path).items())
        return same and {*self.reserved(name)} <= {*record["outputs"]} and all(map(folder.exists, self.files(name)))


def _record(folder: StoreFiles, sidecar: str) -> dict[str, Any]:
    """Returns what a sidecar says, or an empty dictionary if there is none or it is none of ours."""
    try:
        record = json.loads(folder.read(sidecar).to_pybytes())
        return record if isinstance(record["photograph"], str) and {*record["outputs"]} else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _possible_files(name: str) -> set[str]:
    """Returns the names of all files that any run may make of an image, except for its sidecar."""
    return {f"{name}.{ending}" for ending in ENDINGS}


def without_predictions(images: list[str]) -> list[str]:
    """Leaves out images that are files of ours: a folder with predictions may be predicted again.

    Raises:
        SourceError: if nothing is left.
    """
    left = [image for image in images if not _is_prediction(image)]
    if not left:
        raise SourceError(f"All of {len(images)} images were made by predict.py. Pass --images the ones they show.")
    return left


def _is_prediction(image: str) -> bool:
    folder, _, file = image.rpartition("/")
    names = (file.removesuffix(f".{ending}") for ending in ENDINGS if file.endswith(f".{ending}"))
    return any(file in _record(open_files(folder), f"{name}.{SIDECAR}").get("outputs", ()) for name in names)


def plan_outputs(models: Sequence[NamedModel], config: PredictConfig) -> list[Outputs]:
    """Returns what each model writes: the first one the requested files, the others maps to compare.

    Raises:
        RegistryError: if the flags ask for metres of a model that predicts none.
    """
    first, *others = models
    needs_camera = any(FORMATS[kind].needs_camera for kind in config.formats)
    if first.output == "relative inverse depth" and (needs_camera or config.tile_px or config.max_depth_m):
        raise RegistryError(
            f"{first.uri} predicts {first.output}: without metres, no --point-cloud, --viewer, --tile-px or "
            "--max-depth-m. Leave them out."
        )
    if first.output != "metres" and config.max_depth_m:
        raise RegistryError(f"{first.uri} predicts {first.output}: without metres, no --max-depth-m. Leave it out.")
    kinds = tuple(dict.fromkeys((*config.formats, *["npy"] * bool(others))))
    unwritable = [kind for kind in kinds if first.output not in FORMATS[kind].endings]
    if unwritable:
        able = [kind for kind, found in FORMATS.items() if first.output in found.endings]
        raise RegistryError(
            f"{first.uri} predicts {first.output}, which {unwritable[0]} files cannot hold. Received: --files "
            f"{' '.join(config.files)}. Pass some of: {' '.join(able)}."
        )
    open_output(config.out)
    out, settings = absolute(config.out), {"tile_px": config.tile_px}
    is_stated = config.fx is not None or config.fov_deg is not None
    lens = Lens(fx_px=config.fx, fy_px=config.fy, fov_deg=config.fov_deg) if is_stated else None
    planned = Outputs(
        folder=out,
        kinds=kinds,
        model=first.uri,
        output=first.output,
        lens=lens,
        median_focal=first.camera.median_focal,
        max_depth_m=config.max_depth_m,
        settings=settings,
        compared=bool(others),
    )
    return [planned, *(_compared(model, planned) for model in others)]


def _compared(model: NamedModel, first: Outputs) -> Outputs:
    """Returns what a model that is compared with the first one writes: its maps, to a folder named after it."""
    own = re.sub(r"[^\w.-]+", "-", model.uri)
    folder = f"{first.folder}/{own}"
    return replace(
        first,
        folder=folder,
        kinds=("npy",),
        model=model.uri,
        output=model.output,
        median_focal=model.camera.median_focal,
        max_depth_m=first.max_depth_m if model.output == "metres" else None,
        compared=False,
    )


def output_names(paths: list[str]) -> list[str]:
    """Returns a unique name for each image: its stem, or its file name after its folder's if stems clash."""
    stems = Counter(Path(path).stem for path in paths)
    names = []
    for path in map(Path, paths):
        clashes = stems[path.stem] > 1
        names.append(f"{path.parent.name}_{path.name}".replace(".", "_") if clashes else path.stem)
    if len(set(names)) < len(names):
        names = [f"{k:05d}_{name}" for k, name in enumerate(names)]
    return names
