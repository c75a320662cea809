"""System metrics of each node during training: CPU, memory, network, and NVIDIA GPUs if there are any."""

import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

import numpy as np
import psutil

from depthflow.training.collective import WorkerGroup
from depthflow.training.observers import Observer

NAMES = ("cpu_percent", "memory_gib", "network_mib_per_s", "gpu_percent", "gpu_memory_gib")
SAMPLE_EVERY_S = 2.0


class NodeMetrics(Observer):
    """Collects system/nodeK/NAME of all nodes for every epoch.

    Args:
        is_sampled_here: Whether this worker is the one that samples its node, in a thread.
    """

    def __init__(self, group: WorkerGroup, *, is_sampled_here: bool) -> None:
        self._group, self._is_sampled_here = group, is_sampled_here
        if not is_sampled_here:
            return
        self._gpus = _nvidia_gpus()
        self._samples: list[list[float]] = []
        self._lock = threading.Lock()
        self._sent_bytes = _network_bytes()
        psutil.cpu_percent()  # The first call begins its measurement.
        threading.Thread(target=self._work, name="node-monitor", daemon=True).start()

    def metrics(self) -> Mapping[str, float]:
        """Returns means since the last call, without GPU metrics on nodes without GPUs."""
        rows = self._group.gather(self._collect() if self._is_sampled_here else [np.nan] * len(NAMES))
        nodes = [row for row in rows if not np.isnan(row).all()]
        return {
            f"system/node{k}/{name}": float(value)
            for k, row in enumerate(nodes)
            for name, value in zip(NAMES, row, strict=True)
            if not np.isnan(value)
        }

    def _collect(self) -> list[float]:
        """Returns means since the last call, in the order of `NAMES`; NaN for GPUs where there are none."""
        with self._lock:
            samples, self._samples = self._samples, []
        return np.mean(samples or [self._sample()], axis=0).tolist()

    def _work(self) -> None:
        while True:
            time.sleep(SAMPLE_EVERY_S)
            sample = self._sample()
            with self._lock:
                self._samples.append(sample)

    def _sample(self) -> list[float]:
        sent_before, self._sent_bytes = self._sent_bytes, _network_bytes()
        return [
            psutil.cpu_percent(),
            psutil.virtual_memory().used / 2**30,
            (self._sent_bytes - sent_before) / 2**20 / SAMPLE_EVERY_S,
            *_gpu_sample(self._gpus),
        ]


def _network_bytes() -> int:
    """Returns the bytes sent and received since the node started."""
    counters = psutil.net_io_counters()
    return counters.bytes_sent + counters.bytes_recv if counters else 0


def _nvidia_gpus() -> Sequence[object]:
    """Returns NVML's handles of this node's GPUs; none if the driver or nvidia-ml-py is missing."""
    with suppress(Exception):
        import pynvml  # pyright: ignore[reportMissingImports] - in the gpu extra

        pynvml.nvmlInit()
        return [pynvml.nvmlDeviceGetHandleByIndex(k) for k in range(pynvml.nvmlDeviceGetCount())]
    return []


def _gpu_sample(gpus: Sequence[object]) -> list[float]:
    """Returns the mean utilisation in percent, and the memory in use on all GPUs in GiB."""
    if not gpus:
        return [np.nan, np.nan]
    import pynvml  # pyright: ignore[reportMissingImports]

    busy = [pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu for gpu in gpus]
    used = [pynvml.nvmlDeviceGetMemoryInfo(gpu).used for gpu in gpus]
    return [float(np.mean(busy)), float(sum(used)) / 2**30]
