"""The splits of DIODE and of a store."""

from typing import Literal

Split = Literal["train", "val"]
