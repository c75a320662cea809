"""Protocols: each names all that moves a number. A figure without its protocol says nothing."""

from dataclasses import dataclass

from depthflow.errors import ProtocolError
from depthflow.samples.store import SampleStore


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How figures are made.

    Attributes:
        name: what --protocol takes.
        description: for people.
        at_source_resolution: whether the ground truth must have the source's resolution.
    """

    name: str
    description: str
    at_source_resolution: bool


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="devkit",
            description=(
                "DIODE's official devkit: ground truth at the source's resolution, all valid pixels, no cap, no crop, "
                "no alignment; per image, then the mean over images that have a valid pixel."
            ),
            at_source_resolution=True,
        ),
        Protocol(
            name="stored",
            description=(
                "As devkit, but at the store's own resolution: what training computes after each epoch. Figures at "
                "different resolutions cannot be compared."
            ),
            at_source_resolution=False,
        ),
    )
}


def find_protocol(name: str) -> Protocol:
    """The protocol of that name.

    Raises:
        ProtocolError: if there is none.
    """
    if name not in PROTOCOLS:
        raise ProtocolError(f"There is no protocol {name}. Pass --protocol one of: {', '.join(PROTOCOLS)}.")
    return PROTOCOLS[name]


def check_store(protocol: Protocol, store: SampleStore, split: str) -> None:
    """Refuses a store whose samples were resized, where the protocol measures at the source's resolution.

    Raises:
        ProtocolError: if a sample was resized.
        StoreError: if the split is missing.
    """
    rows = store.split_index(split)
    sizes = set(zip(rows["source_height"].to_pylist(), rows["source_width"].to_pylist(), strict=True))
    if protocol.at_source_resolution and sizes != {(store.height, store.width)}:
        height, width = max(sizes)
        raise ProtocolError(
            f"The protocol {protocol.name} measures at the source's resolution ({height} x {width}), but the store "
            f"{store.files.root} was resized to {store.height} x {store.width}. Write {split} a second time with "
            f"preprocess.py --splits {split} --height {height} --width {width}."
        )
