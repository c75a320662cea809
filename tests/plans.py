"""Planned samples as the rows of a plan."""

import pyarrow as pa

from depthflow.datasets.frame_table import frame_table
from depthflow.store.write.plan import PLAN_SCHEMA


def packed(samples):
    """The rows of these planned samples."""
    rows = frame_table(sample.frame for sample in samples)
    for name in ("source", "piece", "position"):
        field = PLAN_SCHEMA.field(name)
        rows = rows.append_column(field, pa.array([getattr(sample, name) for sample in samples], field.type))
    return rows
