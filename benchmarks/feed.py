"""The feed to one training worker beside what a user would take instead, in one run; prints ratios.

    python benchmarks/feed.py --samples STORE --work DIR

STORE is a sample store, at 256 x 256 for the figure of record; DIR a scratch folder. Where there is no store yet:

    python pipelines/synthesize.py --out mini-diode --scans 20 --samples-per-scan 100 --height 256 --width 256
    python pipelines/preprocess.py --source mini-diode --out STORE

The split's samples are written to DIR once more, in a random order, as TFRecord and as WebDataset shards, as many as
the store has. Then each side hands out batches of rgb (B, H, W, 3) uint8 and log-depth (B, H, W) float32 as NumPy,
shuffled anew every epoch, to a consumer that does nothing:

- no_cache: what a worker does in training, with nothing kept between epochs; Parquet's row groups are decoded each
  time, or mapped where the store holds them uncompressed;
- cached: the same, what was decoded kept in memory;
- tfrecord: tf.data over uncompressed tf.train.Example with raw bytes: interleaved files, a shuffle buffer, a batch,
  parse_example and decode_raw on whole batches, prefetch; AUTOTUNE throughout, and free to change the order for speed;
- webdataset: uncompressed tar with raw members, shuffled shards, a shuffle buffer, np.frombuffer, batched; in one
  process (its worker processes need PyTorch) and without a thread that reads ahead, which makes it slower.

The buffers hold as many samples as ours draws from: a batch's places times a row group. All files are in the page
cache. Repeats alternate between the sides, each after a warm-up; figures are medians. CPU is of the process with all
its threads: on a machine that has other work, it is the steadier figure. The last line on stdout is one JSON object.
"""

import io
import itertools
import json
import os
import statistics
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from depthflow.store.read.reader import SplitReader
from depthflow.store.read.share import EpochShare, Position
from depthflow.store.store import SampleStore, open_store
from depthflow.training.feed import read_ahead

Batch = tuple[np.ndarray, np.ndarray]
"""rgb and log-depth."""
Side = Callable[[], Iterator[Batch]]
"""Begins to hand out batches without end."""

PLANES = ("rgb", "log_depth")
OURS = ("no_cache", "cached")
RIVALS = ("tfrecord", "webdataset")
INTERLEAVED_FILES = 4


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """The feed to one training worker beside tf.data and WebDataset."""

    samples: str
    """The sample store."""
    work: str
    """Scratch folder: it takes the split's rgb and log-depth twice, uncompressed."""
    split: str = "train"
    """The split to read."""
    batch_size: int = 16
    """Images of a batch."""
    repeats: int = 5
    """Measurements of each side."""
    warm_up_s: float = 2.0
    """Before each measurement: pipelines fill, AUTOTUNE tunes."""
    measure_s: float = 3.0
    """Seconds of a measurement."""


def main(benchmark: Benchmark) -> dict[str, Any]:
    """Measures all sides and prints the table."""
    store = open_store(benchmark.samples)
    sides = all_sides(store, benchmark)
    images_per_s: dict[str, list[float]] = {name: [] for name in sides}
    cpu_ms: dict[str, list[float]] = {name: [] for name in sides}
    for repeat, (name, side) in itertools.product(range(benchmark.repeats), sides.items()):
        rate, cpu = measure(side, warm_up_s=benchmark.warm_up_s, measure_s=benchmark.measure_s)
        images_per_s[name].append(rate)
        cpu_ms[name].append(cpu)
        print(f"{repeat + 1}/{benchmark.repeats} {name:12} {rate:8.0f} images/s", flush=True)
    print("\n" + table(images_per_s, cpu_ms))
    return {
        "samples": store.split_index(benchmark.split).num_rows,
        "size": [store.height, store.width],
        "cpus": os.cpu_count(),
        "images_per_s": {name: round(statistics.median(rates), 1) for name, rates in images_per_s.items()},
        "cpu_ms_an_image": {name: round(statistics.median(times), 4) for name, times in cpu_ms.items()},
        **{
            f"ratio_{ours}_to_{rival}": round(ratio(images_per_s, ours, rival), 3)
            for ours, rival in itertools.product(OURS, RIVALS)
        },
    }


def all_sides(store: SampleStore, benchmark: Benchmark) -> dict[str, Side]:
    """The sides by name, their files written and everything that is kept in memory there."""
    batch_size, split = benchmark.batch_size, benchmark.split
    readers = {
        name: SplitReader(store, split, planes=PLANES, cache_bytes=cache_bytes)
        for name, cache_bytes in zip(OURS, (0, 2**40), strict=True)
    }
    reader = readers["no_cache"]
    shuffled = batch_size * max(reader.group_sizes)
    shards = sum(1 for shard in store.manifest["shards"] if shard["path"].startswith(f"split={split}/"))
    records, tars = write_rivals(reader, Path(benchmark.work), shards)
    for path in (*records, *tars):
        Path(path).read_bytes()
    readers["cached"].read(range(len(reader)))
    size = (store.height, store.width)
    return {
        **{name: lambda r=reader: our_batches(r, batch_size) for name, reader in readers.items()},
        "tfrecord": lambda: tfrecord_batches(records, batch_size, shuffled, size),
        "webdataset": lambda: webdataset_batches(tars, batch_size, shuffled, size),
    }


def measure(side: Side, *, warm_up_s: float, measure_s: float) -> tuple[float, float]:
    """(images a second, CPU milliseconds an image) of a side that begins anew."""
    batches = side()
    take(batches, warm_up_s)
    cpu, started = time.process_time(), time.perf_counter()
    images = take(batches, measure_s)
    seconds, cpu_s = time.perf_counter() - started, time.process_time() - cpu
    del batches  # Ends its threads.
    return images / seconds, 1000 * cpu_s / images


def take(batches: Iterator[Batch], seconds: float) -> int:
    """Images handed out in some seconds, at least one batch."""
    images, until = 0, time.perf_counter() + seconds
    for rgb, _ in batches:
        images += len(rgb)
        if time.perf_counter() >= until:
            break
    return images


def table(images_per_s: dict[str, list[float]], cpu_ms: dict[str, list[float]]) -> str:
    """A row a side: images a second, CPU, and the ratio to each rival's median."""
    lines = [f"{'':12}  images/s  (lowest, highest)  CPU ms/image" + "".join(f"  / {rival}" for rival in RIVALS)]
    for name, rates in images_per_s.items():
        ratios = "".join(f"{ratio(images_per_s, name, rival):{len(rival) + 4}.2f}" for rival in RIVALS)
        spread = f"({min(rates):.0f}, {max(rates):.0f})"
        lines.append(
            f"{name:12}{statistics.median(rates):10.0f}{spread:>19}{statistics.median(cpu_ms[name]):14.3f}{ratios}"
        )
    return "\n".join(lines)


def ratio(images_per_s: dict[str, list[float]], name: str, rival: str) -> float:
    """Of the medians."""
    return statistics.median(images_per_s[name]) / statistics.median(images_per_s[rival])


# ------------------------------------------------------------------------------------------------------------- sides


def our_batches(reader: SplitReader, batch_size: int) -> Iterator[Batch]:
    """One worker's share of endless epochs, read ahead as in training."""
    epochs = (
        EpochShare(reader, position=Position(seed=0, epoch=epoch), global_batch_size=batch_size, rank=0, num_workers=1)
        for epoch in itertools.count()
    )
    for batch in read_ahead(itertools.chain.from_iterable(epochs)):
        yield batch.samples.rgb, batch.samples.log_depth


def tfrecord_batches(paths: list[str], batch_size: int, shuffled: int, size: tuple[int, int]) -> Iterator[Batch]:
    """tf.data over TFRecord."""
    import tensorflow as tf

    features = {plane: tf.io.FixedLenFeature((), tf.string) for plane in PLANES}

    def parse(serialized: Any) -> tuple[Any, Any]:
        parsed = tf.io.parse_example(serialized, features)
        rgb = tf.io.decode_raw(parsed["rgb"], tf.uint8)
        log_depth = tf.io.decode_raw(parsed["log_depth"], tf.float32)
        return tf.reshape(rgb, (-1, *size, 3)), tf.reshape(log_depth, (-1, *size))

    options = tf.data.Options()
    options.deterministic = False
    dataset: Any = (
        tf.data.Dataset.from_tensor_slices(paths)
        .shuffle(len(paths))
        .repeat()
        .interleave(
            tf.data.TFRecordDataset,
            cycle_length=min(INTERLEAVED_FILES, len(paths)),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
        .shuffle(shuffled)
        .batch(batch_size, drop_remainder=True)
        .map(parse, num_parallel_calls=tf.data.AUTOTUNE)
        .prefetch(tf.data.AUTOTUNE)
        .with_options(options)
    )
    return dataset.as_numpy_iterator()


def webdataset_batches(paths: list[str], batch_size: int, shuffled: int, size: tuple[int, int]) -> Iterator[Batch]:
    """WebDataset over tar files."""
    import webdataset

    def decode(sample: dict[str, bytes]) -> Batch:
        rgb = np.frombuffer(sample["rgb"], np.uint8).reshape(*size, 3)
        return rgb, np.frombuffer(sample["log_depth"], np.float32).reshape(size)

    dataset: Any = webdataset.WebDataset(  # pyright: ignore[reportAttributeAccessIssue]
        paths, shardshuffle=len(paths), empty_check=False
    )
    return iter(dataset.repeat().shuffle(shuffled).map(decode).batched(batch_size))


# ----------------------------------------------------------------------------------------------------- rivals' files


def write_rivals(reader: SplitReader, work: Path, shards: int) -> tuple[list[str], list[str]]:
    """Writes every sample once to TFRecord and once to tar files, in one random order; returns their paths."""
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")
    work.mkdir(parents=True, exist_ok=True)
    order = np.random.default_rng(0).permutation(len(reader))
    records = [str(work / f"{shard:05d}.tfrecord") for shard in range(shards)]
    tars = [str(work / f"{shard:05d}.tar") for shard in range(shards)]
    for record, tar, rows in zip(records, tars, np.array_split(order, shards), strict=True):
        with tf.io.TFRecordWriter(record) as record_writer, tarfile.open(tar, "w") as tar_writer:
            for row in rows:
                planes = {name: plane.tobytes() for name, plane in reader.read([row]).planes.items()}
                record_writer.write(as_example(planes))
                for name, content in planes.items():
                    member = tarfile.TarInfo(f"{row:06d}.{name}")
                    member.size = len(content)
                    tar_writer.addfile(member, io.BytesIO(content))
    return records, tars


def as_example(planes: dict[str, bytes]) -> bytes:
    """A serialized tf.train.Example."""
    import tensorflow as tf

    features = {
        name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[content])) for name, content in planes.items()
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


if __name__ == "__main__":
    print(json.dumps(main(tyro.cli(Benchmark, description=__doc__))))
