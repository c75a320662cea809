"""The table that the demo prints."""

import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from depthflow.metrics import HIGHER_IS_BETTER
from depthflow.registry.tracking import sqlite_uri

METRICS = ("abs_rel", "rmse", "delta1")


def summary(results: Mapping[str, Any], out: Path) -> str:
    """Returns samples, version, metrics beside the baseline's, and where to look, from each command's result."""
    made, evaluation, promotion = results["preprocess"], results["evaluate"], results["promote"]
    promoted = f"{promotion['champion']} ({'; '.join(promotion['reasons'])})" if promotion["champion"] else "none"
    plots = [path for path in evaluation["files"] if path.endswith(".html")]
    plots += [path for path in results["predict"]["outputs"] if path.endswith("panel.png")]
    database = sqlite_uri(out / "mlflow.db")
    return "\n".join(
        [
            "",
            f"{'samples':<22}{made['samples']}",
            f"{'rejects':<22}{made['rejects']} {made['rejects_by_reason'] or ''}",
            *(
                f"{'  ' + split:<22}{', '.join(f'{count} {scene_type}' for scene_type, count in counts.items())}"
                for split, counts in made["counts"].items()
            ),
            f"{'version promoted':<22}{promoted}",
            f"{'seconds':<22}{results['seconds']}",
            "",
            f"{evaluation['samples']} val images at full resolution, protocol {evaluation['protocol']}:",
            f"{'':<22}{'model':>10}{'mean depth':>12}",
            *_comparisons(evaluation),
            "",
            "plots:",
            *(f"  {path}" for path in plots),
            "",
            "MLflow UI:",
            f"  {shlex.join([f'{Path(sys.executable).parent}/mlflow', 'ui', '--backend-store-uri', database])}",
            "",
        ]
    )


def _comparisons(evaluation: Mapping[str, Any]) -> Iterator[str]:
    """Yields a line per scene type and metric, such as: indoors rmse    0.812    1.204  better."""
    for group, metrics in evaluation["metrics"].items():
        for name in METRICS:
            ours, baseline = metrics[name], evaluation["baseline"][group][name]
            if ours is not None:
                better = "better" if (ours > baseline) == (name in HIGHER_IS_BETTER) else "worse"
                yield f"{group + ' ' + name:<22}{ours:>10.3f}{baseline:>12.3f}  {better}"
