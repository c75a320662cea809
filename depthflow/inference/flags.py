"""Flags of predict.py, with the formats that there are."""

from typing import TYPE_CHECKING, Annotated, Literal

from depthflow.config import PredictConfig
from depthflow.config.flags import explained, flags
from depthflow.inference.formats import FORMATS

NAMED = {name: one for name, one in FORMATS.items() if not one.needs_lens}
if TYPE_CHECKING:
    FormatName = str
else:
    FormatName = Literal[tuple(NAMED)]


@flags
class PredictFlags(PredictConfig):
    """Depth for photographs of any size."""

    files: Annotated[tuple[FormatName, ...], explained("What to write of each.", NAMED)] = PredictConfig.files
    """Names of `depthflow.inference.formats.FORMATS`."""
