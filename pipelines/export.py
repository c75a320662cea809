"""Export a registered network for other runtimes, and check it in each."""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from depthflow.command import run_command
from depthflow.inference.config import ExportConfig


def main(config: ExportConfig) -> dict[str, Any]:
    """Writes the networks once each has predicted the same metres as the registered one."""
    from depthflow.cluster.session import ray_session
    from depthflow.evaluation.evaluate import evaluate_models
    from depthflow.evaluation.protocols import check_output, find_protocol, rows_of
    from depthflow.inference.conversion import Variant
    from depthflow.inference.export import (
        commit_exports,
        export_network,
        images_to_compare,
        open_source,
        representative_images,
    )
    from depthflow.inference.named_model import find_model
    from depthflow.storage.files import open_output
    from depthflow.store.store import open_store

    protocol, store = find_protocol(config.protocol), open_store(config.samples) if config.samples else None
    if store:
        rows_of(protocol, store, config.split)  # Fails here rather than after the export.
    out, model = open_output(config.out), find_model(config.model)
    if store:
        check_output(protocol, model.output, model=model.uri)
    source = open_source(model)
    variants = [
        *(Variant(format=name) for name in dict.fromkeys(config.format)),
        *(Variant(format="litert", weights=weights) for weights in dict.fromkeys(config.quantize)),
    ]
    with TemporaryDirectory() as scratch:
        differences = export_network(
            source,
            variants,
            Path(scratch),
            images=images_to_compare(source, config.images),
            tolerance=config.tolerance,
            representative=representative_images(source, store, config.split) if store and config.quantize else (),
        )
        files = commit_exports(Path(scratch), differences, out)
    result = {
        "model": model.uri,
        "files": files,
        "largest_difference": dict(zip(files, differences.values(), strict=True)),
    }
    if store is None:
        return result
    with ray_session(config.num_cpus):
        evaluations, _ = evaluate_models(
            {name: find_model(name).load for name in (model.uri, *files)},
            store=store,
            split=config.split,
            protocol=protocol,
            num_workers=config.num_workers,
        )
    metrics = {name: evaluation.metrics for name, evaluation in evaluations.items()}
    return {**result, "protocol": protocol.name, "fingerprint": store.fingerprint, "metrics": metrics}


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
