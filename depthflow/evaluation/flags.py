"""Flags of evaluate.py and promote.py, with the protocols that there are."""

from typing import Annotated

from depthflow.config import EvaluateConfig, PromoteConfig
from depthflow.config.flags import flag_help, flags
from depthflow.evaluation.protocols import PROTOCOLS

ProtocolName = Annotated[
    str,
    flag_help(f"Names all that moves a number: mask, cap, alignment, resolution. One of: {', '.join(PROTOCOLS)}."),
]
"""Other names are refused by `find_protocol`."""


@flags
class EvaluateFlags(EvaluateConfig):
    """A model's figures under a named protocol, beside the mean-depth baseline's."""

    protocol: ProtocolName = EvaluateConfig.protocol
    """A name of `depthflow.evaluation.protocols.PROTOCOLS`."""


@flags
class PromoteFlags(PromoteConfig):
    """Champion against challenger, and the alias only if the challenger is better."""

    protocol: ProtocolName = PromoteConfig.protocol
    """A name of `depthflow.evaluation.protocols.PROTOCOLS`."""
