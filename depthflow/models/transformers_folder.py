"""Reads models as transformers saves them, from a folder or the Hugging Face hub, without PyTorch or pickle."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from depthflow.errors import WeightsError

CONFIG, WEIGHTS = "config.json", "model.safetensors"
SHARDS = f"{WEIGHTS}.index.json"
"""Names the files of weights that are split into several."""
DOWNLOADED = (CONFIG, SHARDS, "model*.safetensors")
"""What is downloaded. Pickled weights, which run code when they are loaded, never are."""
DEPTH_ANYTHING_PREFIX = "depth-anything:"
"""Precedes a folder or OWNER/NAME where commands take any model."""
HUB_NAME = re.compile(r"\w[\w.-]*/[\w.-]+")
FLOATS = ("F64", "F32", "F16", "BF16")
LICENCES = {
    r"depth-anything/Depth-Anything-V2-(Metric-(Indoor|Outdoor)-)?Small-hf": "Apache-2.0",
    r"depth-anything/Depth-Anything-V2-(Metric-(Indoor|Outdoor)-)?(Base|Large)-hf": "CC-BY-NC-4.0: no commercial use",
    r"facebook/dinov2-(with-registers-)?(small|base|large|giant)": "Apache-2.0",
    r"facebook/deit-(tiny|small|base)-(distilled-)?patch16-224": "Apache-2.0",
    r"google/vit-base-patch16-224(-in21k)?": "Apache-2.0",
}
"""Names on the hub, as regular expressions, to the licences that their authors state."""


@dataclass(frozen=True)
class TransformersFolder:
    """A model of transformers.

    Attributes:
        place: Absolute folder, or name on the hub.
        folder: Folder with its files.
        config: What its config.json says.
        tensors: Name to float32 array, read when it is asked for.
        files: Files of its weights, sorted by name.
    """

    place: str
    folder: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, np.ndarray]
    files: tuple[Path, ...]

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the weights, in hexadecimal; of all files in the order of their names if there are several."""
        digest = hashlib.sha256()
        for path in self.files:
            with path.open("rb") as handle:
                while block := handle.read(1 << 20):
                    digest.update(block)
        return digest.hexdigest()

    @property
    def licence(self) -> str | None:
        """Licence of the weights; None if it is not known here."""
        return licence_of(self.place)

    @property
    def revision(self) -> str | None:
        """Commit on the hub; None for a folder."""
        return None if Path(self.place).is_dir() else self.folder.name

    @property
    def origin(self) -> str:
        """Where the weights are from and how they may be used, in a sentence for people."""
        licence = self.licence or "not known here; see where you have them from"
        commit = f" at commit {self.revision}" if self.revision else ""
        return f"Weights of {self.place}{commit}, licence: {licence}."


def open_transformers(place: str) -> TransformersFolder:
    """Opens a model, and downloads it first if it is on the hub and not in the cache.

    Args:
        place: Folder, or OWNER/NAME on the Hugging Face hub.

    Raises:
        WeightsError: if there is no such model, it cannot be downloaded, its weights are pickled or damaged, or it is
            not a model of transformers.
    """
    is_folder = Path(place).is_dir()
    folder = Path(place).absolute() if is_folder else _download(place)
    config = _read_object(folder / CONFIG)
    if not isinstance(config.get("model_type"), str):
        raise WeightsError(
            f"{folder / CONFIG} is not that of a transformers model: it has no model_type. Pass the folder of one, or "
            "OWNER/NAME on the Hugging Face hub."
        )
    files = _weight_files(folder)
    place = str(folder) if is_folder else place
    return TransformersFolder(place=place, folder=folder, config=config, tensors=_Tensors(files), files=files)


def licence_of(place: str) -> str | None:
    """Returns the licence of a model on the hub; None if it is not known here."""
    return next((licence for name, licence in LICENCES.items() if re.fullmatch(name, place)), None)


def is_hub_name(place: str) -> bool:
    """Returns whether a place is OWNER/NAME on the Hugging Face hub: it looks like one, and there is no such folder."""
    return bool(HUB_NAME.fullmatch(place)) and not Path(place).exists()


def _download(place: str) -> Path:
    """Returns the folder of the cache that has the files of a model on the hub."""
    if not is_hub_name(place):
        raise WeightsError(f"There is no folder {place}. Pass one, or OWNER/NAME on the Hugging Face hub.")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        cached = Path(snapshot_download(place, allow_patterns=[*DOWNLOADED], local_files_only=True))
        if (cached / CONFIG).is_file() and any(cached.glob("*.safetensors")):
            return cached
    except (LocalEntryNotFoundError, HFValidationError):
        pass
    try:
        return Path(snapshot_download(place, allow_patterns=[*DOWNLOADED]))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = next(iter(str(error.__cause__ or error).strip().splitlines()), type(error).__name__)
        raise WeightsError(
            f"There is no folder {place}, and the Hugging Face hub does not give {place}: {reason.rstrip('.')}. Check "
            "the name and the network, or pass a folder with its config.json and model.safetensors."
        ) from None


def _weight_files(folder: Path) -> tuple[Path, ...]:
    """Returns the files with a folder's weights, sorted by name."""
    if (folder / WEIGHTS).is_file():
        return (folder / WEIGHTS,)
    if (folder / SHARDS).is_file():
        weight_map = _read_object(folder / SHARDS).get("weight_map")
        names = list(weight_map.values()) if isinstance(weight_map, dict) else []
        if names and all(isinstance(name, str) and Path(name).name == name for name in names):
            return tuple(folder / name for name in sorted({*names}))
        raise WeightsError(f"{folder / SHARDS} names no files of this folder. Download the model again.")
    pickled = next((path.name for path in sorted(folder.glob("*.bin"))), None)
    found = f"only {pickled}, a pickle, which could run code and is not read" if pickled else "none"
    raise WeightsError(
        f"{folder} has no {WEIGHTS}. Received: {found}. Save the model with transformers' "
        "save_pretrained(safe_serialization=True), or pass another one."
    )


def _read_object(path: Path) -> dict[str, Any]:
    """Returns the JSON object in a file."""
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise WeightsError(
            f"The folder {path.parent} is not a transformers model: it has no {path.name}. Pass the folder that has it."
        ) from None
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} is damaged: {error}. Download the model again.") from None
    if not isinstance(found, dict):
        raise WeightsError(f"{path} is damaged: it holds no JSON object. Download the model again.")
    return found


class _Tensors(Mapping[str, np.ndarray]):
    """The tensors of some files, as float32.

    Args:
        paths: Files of safetensors.

    Raises:
        WeightsError: if a file is missing or damaged; on reading, if a tensor holds no floating-point numbers.
    """

    def __init__(self, paths: tuple[Path, ...]) -> None:
        import ml_dtypes  # noqa: F401  # Gives NumPy the type bfloat16.
        from safetensors import SafetensorError, safe_open

        self._files: dict[str, Any] = {}
        for path in paths:
            try:
                opened: Any = safe_open(path, framework="numpy")
            except FileNotFoundError:
                raise WeightsError(f"{path} is missing. Download the model again.") from None
            except (SafetensorError, OSError) as error:
                raise WeightsError(f"{path} is damaged: {error}. Download the model again.") from None
            self._files |= dict.fromkeys(opened.keys(), opened)

    def __getitem__(self, name: str) -> np.ndarray:
        opened = self._files[name]
        dtype = opened.get_slice(name).get_dtype()
        if dtype not in FLOATS:
            raise WeightsError(
                f"The tensor {name} holds {dtype}, and quantised weights are not read. Pass the model with weights "
                f"of one of: {', '.join(FLOATS)}."
            )
        return opened.get_tensor(name).astype(np.float32)

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)
