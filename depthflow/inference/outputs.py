"""The files of each image: which ones, where, under which name, and whether an earlier run left them."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from depthflow.errors import RegistryError
from depthflow.inference.config import PredictConfig
from depthflow.inference.formats import FORMATS
from depthflow.inference.images import image_version
from depthflow.inference.named_model import NamedModel
from depthflow.inference.writers import Lens
from depthflow.models.interface import Output
from depthflow.storage.files import open_files, open_output
from depthflow.storage.location import absolute

SIDECAR = "depth.json"
"""Ending of the file that lists an image's files. It is removed first and written last, so it vouches for them."""


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What to write for each image.

    Attributes:
        folder: Absolute folder, s3:// or gs:// URI.
        kinds: Names in `FORMATS`.
        model: URI of the model, for the sidecar.
        output: What the model predicts.
        lens: For point clouds; None if there are none.
        settings: Anything else the files depend on, for the sidecar.
    """

    folder: str
    kinds: tuple[str, ...]
    model: str
    output: Output
    lens: Lens | None
    settings: Mapping[str, Any]

    def files(self, name: str) -> list[str]:
        """Returns the names of an image's files in the folder."""
        return [f"{name}.{FORMATS[kind].endings[self.output]}" for kind in self.kinds]

    def stale_files(self, name: str) -> set[str]:
        """Returns the names of all files that another run may have left of an image, except for its sidecar."""
        return {f"{name}.{ending}" for one in FORMATS.values() for ending in one.endings.values()} - {*self.files(name)}

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
            **self.settings,
        }

    def is_done(self, path: str, name: str) -> bool:
        """Returns whether an earlier run left all files of the image, as this run would write them."""
        try:
            folder = open_files(self.folder)
            written = json.loads(folder.read(f"{name}.{SIDECAR}").to_pybytes())
            same = all(written.get(key) == value for key, value in self.facts(path).items())
            listed = {*self.kinds} <= {*written["files"]}
        except (OSError, ValueError, AttributeError, KeyError, TypeError):
            return False
        return same and listed and all(map(folder.exists, self.files(name)))


def plan_outputs(models: Sequence[NamedModel], config: PredictConfig) -> list[Outputs]:
    """Returns what each model writes: the first one the requested files, the others maps to compare.

    Raises:
        RegistryError: if the flags ask for metres of a model that predicts none.
    """
    first, *others = models
    if first.output != "metres" and (config.point_cloud or config.tile_px):
        raise RegistryError(
            f"{first.uri} predicts {first.output}: without metres, no --point-cloud and no --tile-px. Leave them out."
        )
    kinds = tuple(dict.fromkeys((*config.files, *["npy"] * bool(others), *["ply"] * config.point_cloud)))
    unwritable = [kind for kind in kinds if first.output not in FORMATS[kind].endings]
    if unwritable:
        able = [kind for kind, found in FORMATS.items() if first.output in found.endings]
        raise RegistryError(
            f"{first.uri} predicts {first.output}, which {unwritable[0]} files cannot hold. Received: --files "
            f"{' '.join(config.files)}. Pass some of: {' '.join(able)}."
        )
    open_output(config.out)
    out, settings = absolute(config.out), {"tile_px": config.tile_px}
    lens = Lens(fx_px=config.fx, fy_px=config.fy, fov_deg=config.fov_deg) if config.point_cloud else None
    planned = Outputs(folder=out, kinds=kinds, model=first.uri, output=first.output, lens=lens, settings=settings)
    return [planned, *(_compared(model, planned) for model in others)]


def _compared(model: NamedModel, first: Outputs) -> Outputs:
    """Returns what a model that is compared with the first one writes: its maps, to a folder named after it."""
    own = re.sub(r"[^\w.-]+", "-", model.uri)
    return replace(
        first, folder=f"{first.folder}/{own}", kinds=("npy",), model=model.uri, output=model.output, lens=None
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
