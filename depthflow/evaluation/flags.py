"""Flags of evaluate.py and promote.py, with the protocols that there are."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from depthflow.config import EvaluateConfig, PromoteConfig
from depthflow.evaluation.protocols import PROTOCOLS

ProtocolName = Annotated[
    str,
    tyro.conf.arg(
        help=f"Names all that moves a number: mask, cap, alignment, resolution. One of: {', '.join(PROTOCOLS)}."
    ),
]
"""Other names are refused by `find_protocol`."""


@dataclass(frozen=True, kw_only=True)
class EvaluateFlags(EvaluateConfig):
    """A model's figures under a named protocol, beside the mean-depth baseline's."""

    protocol: ProtocolName = EvaluateConfig.protocol
    """A name of `depthflow.evaluation.protocols.PROTOCOLS`."""


@dataclass(frozen=True, kw_only=True)
class PromoteFlags(PromoteConfig):
    """Champion against challenger, and the alias only if the challenger is better."""

    protocol: ProtocolName = PromoteConfig.protocol
    """A name of `depthflow.evaluation.protocols.PROTOCOLS`."""
