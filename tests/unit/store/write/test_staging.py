"""From an archive to pieces: every sample is made once, of its own members, wherever they lie."""

import io
import random
import tarfile
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from depthflow.datasets.camera import Camera
from depthflow.datasets.diode import MEMBER_SUFFIXES
from depthflow.datasets.frames import Frame
from depthflow.datasets.reject import RejectError
from depthflow.errors import SourceError
from depthflow.storage.files import open_files
from depthflow.store.write import staging
from depthflow.store.write.plan import PlannedSample, ShardPlan, plan_samples
from depthflow.store.write.sample import SampleLayout, make_sample
from depthflow.store.write.sources import ArchiveSource, Source, list_archive, read_contents
from depthflow.store.write.staging import (
    MAX_SEGMENT_SAMPLES,
    MIN_SEGMENT_SAMPLES,
    OPEN_FRAMES,
    SEGMENTS_WANTED,
    PieceReader,
    Segment,
    cut_into_segments,
    plan_staging,
    spans,
    stage_segment,
    sweep,
)
from tests.archives import pack
from tests.plans import packed
from tests.stores import list_source, unwatched

SCAN = "00001_00001_indoors"
TREE = {SCAN: 20, "00001_00002_indoors": 10}
LAYOUT = SampleLayout(height=4, width=5, edge_relative_jump=0.1, edge_radius_px=1)


# --- segments ---


def planned_at(places, number, split="train"):
    """A sample whose members lie at these (offset, size)."""
    stem = f"{SCAN}_{number // 1000:03d}_{number % 1000:03d}"
    triplet = Frame(
        sample_id=stem,
        split=split,
        scene_type="indoors",
        scene="scene_00001",
        scan="scan_00001",
        members={name: f"{name}@{start}+{size}" for name, (start, size) in zip(MEMBER_SUFFIXES, places, strict=True)},
    )
    return PlannedSample(frame=triplet, source="a.tar.gz")


def samples_in_order(order):
    """Samples whose members lie one after another as `order` says: for each member the number of its sample."""
    places = {}
    for place, number in enumerate(order):
        places.setdefault(number, []).append((1000 * place + 512, 400))
    return [planned_at(found, number) for number, found in places.items()]


def segments_of(samples, **changes):
    rows = packed(samples)
    about = {"archive": "a.tar.gz", "identity": "identity", "settings": "{}", **changes}
    return [Segment(rows=rows.take(some), **about) for some in cut_into_segments(rows, np.arange(rows.num_rows))]


def spans_of(sample):
    return spans(sample).values()


def extent(samples):
    """(begin, end) of their members."""
    found = [span for sample in samples for span in spans_of(sample)]
    return min(offset for offset, _ in found), max(map(sum, found))


def in_a_row(count):
    return [number for number in range(count) for _ in range(3)]


def shuffled(count, seed):
    return random.Random(seed).sample(in_a_row(count), 3 * count)


def scan_by_scan(count, size, seed):
    """Whole scans one after another; within each its files in any order, as a file system may list them."""
    return [
        first + number for first in range(0, count, size) for number in shuffled(min(size, count - first), seed + first)
    ]


orders = st.one_of(
    st.integers(0, 700).map(in_a_row),
    st.builds(shuffled, st.integers(1, 700), st.integers(0, 99)),
    st.builds(scan_by_scan, st.integers(1, 700), st.integers(1, 120), st.integers(0, 99)),
    st.integers(1, 700).map(lambda count: [*range(count)] * 3),
)


@settings(max_examples=60)
@given(order=orders, seed=st.integers(0, 99))
def test_each_sample_is_in_one_segment_independent_of_order(order, seed):
    samples = samples_in_order(order)
    segments = segments_of(samples)
    ids = Counter(sample.frame.sample_id for segment in segments for sample in segment.samples)
    assert ids == Counter(sample.frame.sample_id for sample in samples)
    assert all(1 <= len(segment.samples) <= OPEN_FRAMES for segment in segments)
    assert len({segment.piece for segment in segments}) == len(segments)
    assert segments_of(random.Random(seed).sample(samples, len(samples))) == segments
    for segment in segments:
        ends = [max(map(sum, spans_of(sample))) for sample in segment.samples]
        assert ends == sorted(ends)
        assert (segment.begin, segment.end) == extent(segment.samples)


@settings(max_examples=60)
@given(order=orders)
def test_segments_end_between_triplets_where_possible(order):
    samples = samples_in_order(order)
    segments = segments_of(samples)
    wanted = min(MAX_SEGMENT_SAMPLES, max(MIN_SEGMENT_SAMPLES, len(samples) // SEGMENTS_WANTED))
    extents = np.array(sorted(extent([sample]) for sample in samples)).reshape(-1, 2)
    clean = {begin for begin, _ in extents if not ((extents[:, 0] < begin) & (begin < extents[:, 1])).any()}
    for before, after in pairwise(segments):
        assert len(before.samples) == OPEN_FRAMES or extent(after.samples)[0] in clean
    for segment in segments:  # None goes on over a clean place, once it is long enough.
        begins = sorted(extent([sample])[0] for sample in segment.samples)
        assert not set(begins[wanted:]) & clean


@pytest.mark.parametrize(
    ("count", "wanted"),
    [
        (0, []),
        (1, [1]),
        (8, [8]),
        (9, [8, 1]),
        (128, [8] * 16),
        (160, [10] * 16),
        (1024, [64] * 16),
        (1100, [64] * 17 + [12]),
    ],
)
def test_triplets_in_a_row_make_equal_segments(count, wanted):
    segments = segments_of(samples_in_order(in_a_row(count)))
    assert [len(segment.samples) for segment in segments] == wanted


def test_a_shuffled_archive_is_cut_by_size():
    segments = segments_of(samples_in_order(shuffled(1000, 0)))
    assert [len(segment.samples) for segment in segments] == [256, 256, 256, 232]


def test_a_pieces_name_depends_on_its_content():
    samples = samples_in_order(in_a_row(8))
    (segment,) = segments_of(samples)
    first = samples[0].frame
    others = [
        segments_of(samples, identity="another"),
        segments_of(samples, settings='{"height": 1}'),
        segments_of(samples[:-1]),
        segments_of([replace(samples[0], frame=replace(first, split="val")), *samples[1:]]),
        segments_of([replace(samples[0], frame=replace(first, sample_id="x")), *samples[1:]]),
        segments_of(
            [replace(samples[0], frame=replace(first, members={**first.members, "rgb": "rgb@0+5"})), *samples[1:]]
        ),
    ]
    assert segment.piece.startswith(".staging/identity/")
    assert len({segment.piece, *(other.piece for (other,) in others)}) == 1 + len(others)


def test_only_readable_samples_of_archives_are_staged(tmp_path):
    first, second, third = samples_in_order(in_a_row(3))
    refused = replace(second, frame=replace(second.frame, reason="duplicate"))
    tree = replace(third, source="tree")
    rows = [packed(samples) for samples in [(first, refused), (third, tree)]]
    plans = [ShardPlan(path=f"{n}.parquet", rows=some, settings="{}") for n, some in enumerate(rows)]
    sources = [
        Source(location="tree", frames=rows[0].slice(0, 0)),
        ArchiveSource(location="a.tar.gz", frames=rows[0].slice(0, 0), identity="identity"),
    ]
    got, (segment,) = plan_staging(plans, sources, open_files(str(tmp_path)))
    assert [s.frame for s in segment.samples] == [first.frame, third.frame]
    places = [[(s.piece, s.position) for s in plan.samples if s.piece] for plan in got]
    assert places == [[(segment.piece, 0)], [(segment.piece, 1)]]
    assert [plan.digest for plan in got] == [plan.digest for plan in plans]


def test_segments_of_finished_shards_are_not_staged(tmp_path):
    (sample,) = samples_in_order(in_a_row(1))
    files = open_files(str(tmp_path))
    files.write("0.parquet", b"x")
    plan = ShardPlan(path="0.parquet", rows=packed([sample]), settings="{}")
    source = ArchiveSource(location="a.tar.gz", frames=plan.rows, identity="identity")
    assert plan_staging([plan], [source], files)[1] == []


# --- the sweep ---


class Tape:
    """Stands for an archive: the content of a span is made of its offset. Notes what is read."""

    def __init__(self, inflation=1):
        self.read_spans, self.inflation = [], inflation

    def read(self, span):
        self.read_spans.append(span)
        return self.content(span) * self.inflation

    @staticmethod
    def content(span):
        return f"{span[0]:0{span[1]}d}".encode()


@settings(max_examples=60)
@given(order=orders, held_bytes=st.sampled_from([0, 1, 500, 5000, 50_000, 2**29]))
def test_a_sweep_yields_each_samples_own_members(order, held_bytes):
    samples = samples_in_order(order)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(staging, "HELD_BYTES", held_bytes)
        for segment in segments_of(samples):
            tape = Tape()
            for sample, members in zip(segment.samples, sweep(segment, tape.read), strict=True):
                assert members == {name: Tape.content(span) for name, span in spans(sample).items()}
                assert max(tape.read_spans) == max(spans_of(sample))  # It reads no further than it must.
            if held_bytes == 2**29:  # All are kept: each is read once, and forward.
                assert tape.read_spans == sorted(span for sample in segment.samples for span in spans_of(sample))


@pytest.mark.parametrize("inflation", [1, 50])
def test_a_sweep_holds_a_limited_number_of_bytes(monkeypatch, inflation):
    """Of decompressed bytes, of which a zip has more than its spans say."""
    monkeypatch.setattr(staging, "HELD_BYTES", 10 * 400 * inflation)
    (segment,) = segments_of(samples_in_order([*range(100)] * 3))
    tape, most = Tape(inflation), 0
    generator = sweep(segment, tape.read)
    for _ in segment.samples:
        next(generator)
        most = max(most, len(generator.gi_frame.f_locals["held"]))
    assert most <= 11
    assert len(tape.read_spans) > 300  # What was let go is read again.


# --- views ---


def videos_in_a_row(count, step, scattered=False):
    """Samples of two members, in a row, whose views are the images of the samples before and after."""
    order = [*range(count)]
    if scattered:
        random.Random(7).shuffle(order)
    at = {number: 3000 * place for place, number in enumerate(order)}
    samples = []
    for number in range(step, count - step):
        own = planned_at([(at[number], 400), (at[number] + 1000, 400), (at[number] + 2000, 400)], number)
        views = {"previous": f"p@{at[number - step]}+400", "next": f"n@{at[number + step]}+400"}
        samples.append(replace(own, frame=replace(own.frame, members={**own.frame.members, **views})))
    return samples


@pytest.mark.parametrize("step", [1, 3])
def test_views_do_not_join_segments(step):
    segments = segments_of(videos_in_a_row(1024 + 2 * step, step))
    assert [len(segment.samples) for segment in segments] == [64] * 16
    for segment in segments:  # Each reads the images beside it, too.
        first, last = extent([replace(s, frame=replace(s.frame, members=own(s))) for s in segment.samples])
        assert (segment.begin, segment.end) == (first - 3000 * step, last - 2000 - 400 + 3000 * step + 400)


def own(sample):
    return {name: sample.frame.members[name] for name in MEMBER_SUFFIXES}


@pytest.mark.parametrize("scattered", [False, True])
@pytest.mark.parametrize("held_bytes", [0, 5000, 2**29])
def test_a_sweep_keeps_a_view_until_its_last_use(monkeypatch, held_bytes, scattered):
    monkeypatch.setattr(staging, "HELD_BYTES", held_bytes)
    for segment in segments_of(videos_in_a_row(300, 2, scattered)):
        tape, most = Tape(), 0
        generator = sweep(segment, tape.read)
        for sample in segment.samples:
            assert next(generator) == {name: Tape.content(span) for name, span in spans(sample).items()}
            most = max(most, sum(map(len, generator.gi_frame.f_locals["held"].values())))
        every = {span for sample in segment.samples for span in spans_of(sample)}
        if held_bytes == 2**29:
            assert tape.read_spans == sorted(every)
        assert next(generator, None) is None
        assert most <= (held_bytes + 400 if held_bytes < 2**29 else len(every) * 400)
        if held_bytes == 2**29 and not scattered:
            assert most <= 9 * 400  # The images of five frames in a row, and depths and masks of two.


def test_a_pieces_name_depends_on_the_geometry_of_views():
    (segment,) = segments_of(videos_in_a_row(10, 1))
    changed = [replace(sample, frame=replace(sample.frame, next_pose=(0.0,) * 16)) for sample in segment.samples]
    timed = [replace(sample, frame=replace(sample.frame, time_s=1.0)) for sample in segment.samples]
    assert len({segment.piece, *(other.piece for some in (changed, timed) for other in segments_of(some))}) == 3


# --- a whole archive ---


@pytest.fixture(scope="module")
def tree(tmp_path_factory, write):
    """40 samples of train and 12 of val, of which three are refused and one lacks a file, and a camera."""
    root = tmp_path_factory.mktemp("tree")
    write.tree(root, {"train": {**TREE, "00002_00001_outdoor": 10}, "val": {"00003_00001_indoors": 12}})
    rgb, depth, mask = write.frame(0)
    write.triplet(root, "train", f"{SCAN}_003_000", rgb, depth, mask * 0)
    write.triplet(root, "train", f"{SCAN}_004_000", rgb, depth * np.nan, mask)
    folder = write.triplet(root, "val", "00003_00001_indoors_005_000", rgb, depth, mask)
    (folder / "00003_00001_indoors_005_000.png").write_bytes(b"")
    (folder / "00003_00001_indoors_006_000_depth.npy").unlink()
    (root / "camera.json").write_text(
        '{"width": 8, "height": 6, "fx_px": 7.0, "fy_px": 7.0, "cx_px": 4.0, "cy_px": 3.0}'
    )
    return root


def any_order(files):
    return random.Random(5).sample(files, len(files))


def by_suffix(files):
    return sorted(files, key=lambda file: (file.suffix, file.name.endswith("mask.npy"), file))


KINDS_AND_ORDERS = [(".tar.gz", sorted), (".tar.gz", any_order), (".tar", by_suffix), (".zip", any_order)]


@pytest.fixture(scope="module", params=KINDS_AND_ORDERS, ids=lambda param: f"{param[0]}, {param[1].__name__}")
def archive(tree, tmp_path_factory, request):
    kind, order = request.param
    return pack(tmp_path_factory.mktemp("archive") / f"diode{kind}", tree, order)


def segments_in(archive, files, splits=("train", "val")):
    """The archive's segments; listed to the store's staging."""
    source = list_source(archive, splits, files)
    rows = plan_samples([source])
    rows = rows.filter(pc.equal(rows["reason"], ""))
    return [
        Segment(archive=archive, identity=source.identity, rows=rows.take(some), settings="{}")
        for some in cut_into_segments(rows, np.arange(rows.num_rows))
    ]


def stage(segments, files, watch=unwatched):
    """How many samples of each segment are rejected."""
    return [stage_segment(s, files=files, layout=LAYOUT, watch=watch) for s in segments]


def members_in(tree, triplet):
    folder = Path(tree, triplet.split, triplet.scene_type, triplet.scene, triplet.scan)
    return {name: (folder / f"{triplet.sample_id}{end}").read_bytes() for name, end in MEMBER_SUFFIXES.items()}


def test_a_piece_holds_what_the_files_would_make(tree, archive, tmp_path):
    files = open_files(str(tmp_path))
    segments = segments_in(archive, files)
    cameras = {sample.frame.camera for segment in segments for sample in segment.samples}
    assert cameras == {Camera(width=8, height=6, fx_px=7.0, fy_px=7.0, cx_px=4.0, cy_px=3.0)}
    assert sum(stage(segments, files)) == 3
    pieces, made, refused = PieceReader(files), 0, 0
    for segment in segments:
        for position, planned in enumerate(segment.samples):
            wanted = made_of(members_in(tree, planned.frame), planned.frame)
            if isinstance(wanted, str):
                with pytest.raises(RejectError) as info:
                    pieces.take(segment.piece, position)
                assert str(info.value) == wanted
                refused += 1
                continue
            sample = pieces.take(segment.piece, position)
            seconds = sample.row.pop("seconds")
            assert sample.row == wanted.row
            for name, plane in vars(wanted.planes).items():
                got = getattr(sample.planes, name)
                assert (got.dtype, got.shape, got.tobytes()) == (plane.dtype, plane.shape, plane.tobytes())
            assert 0 < seconds < 60
            made += 1
    assert (made, refused) == (48, 3)


def made_of(members, triplet):
    """The sample, or why it is refused."""
    try:
        return make_sample(triplet, members, LAYOUT)
    except RejectError as error:
        return str(error)


def test_a_second_call_changes_and_reads_nothing(tree, tmp_path):
    archive = pack(tmp_path / "diode.tar.gz", tree, any_order)
    files = open_files(str(tmp_path / "store"))
    segments = segments_in(archive, files)
    stage(segments, files)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("*")}
    assert len(before) > len(segments)
    Path(archive).unlink()
    list_archive(archive, segments[0].identity, files, threads=1, progress=lambda name, done: None)
    assert sum(stage(segments, files)) == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("*")} == before


def test_a_lost_piece_is_made_again(tree, tmp_path):
    archive = pack(tmp_path / "diode.tar.gz", tree, sorted)
    files = open_files(str(tmp_path))
    segments = segments_in(archive, files)
    stage(segments, files)
    gone = tmp_path / segments[1].piece
    content = held_in(files, segments[1])
    gone.unlink()
    made = []
    stage(segments, files, watch=lambda planned: made.append(planned.frame.sample_id) or nullcontext())
    assert made == [sample.frame.sample_id for sample in segments[1].samples]
    assert held_in(files, segments[1]) == content


def held_in(files, segment):
    """What a piece holds but for how long it took."""
    reader, found = PieceReader(files), []
    for position in range(len(segment.samples)):
        try:
            sample = reader.take(segment.piece, position)
            del sample.row["seconds"]
            found.append((sample.row, [plane.tobytes() for plane in vars(sample.planes).values()]))
        except RejectError as error:
            found.append(str(error))
    return found


def test_every_sample_and_reject_is_watched(archive, tmp_path):
    files = open_files(str(tmp_path))
    segments = segments_in(archive, files)
    seen, refused = [], []

    class Watch:
        def __init__(self, planned):
            self.sample_id = planned.frame.sample_id

        def __enter__(self):
            seen.append(self.sample_id)

        def __exit__(self, kind, *rest):
            if kind is RejectError:
                refused.append(self.sample_id)

    stage(segments, files, watch=Watch)
    assert seen == [sample.frame.sample_id for segment in segments for sample in segment.samples]
    assert sorted(refused) == [f"{SCAN}_003_000", f"{SCAN}_004_000", "00003_00001_indoors_005_000"]


def test_a_segment_whose_archive_changed_leaves_no_piece(tree, tmp_path):
    archive = pack(tmp_path / "diode.tar.gz", tree, sorted)
    files = open_files(str(tmp_path / "store"))
    segments = segments_in(archive, files)
    content = Path(archive).read_bytes()
    Path(archive).write_bytes(content[: len(content) // 2])
    with pytest.raises(SourceError, match="can no longer be read"):
        stage(segments, files)
    assert not list((tmp_path / "store").rglob("*.arrow"))
    assert not list((tmp_path / "store").rglob(".tmp-*"))
    Path(archive).write_bytes(content)
    assert sum(stage(segments, files)) == 3


def test_a_damaged_archive_is_not_listed(tree, tmp_path):
    archive = pack(tmp_path / "diode.tar.gz", tree, sorted)
    content = Path(archive).read_bytes()
    Path(archive).write_bytes(content[:-20])
    files = open_files(str(tmp_path / "store"))
    with pytest.raises(SourceError, match="cannot be read to its end"):
        list_archive(archive, "identity", files, threads=2, progress=lambda name, done: None)
    assert [path for path in (tmp_path / "store").rglob("*") if path.is_file()] == []


def test_the_list_of_members_survives_storage(tmp_path):
    members = [("train/\udcff.png", b"x"), ("train/" + "é" * 200, b""), ("README", b"text")]
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz", format=tarfile.GNU_FORMAT) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        link = tarfile.TarInfo("train/link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "target"
        tar.addfile(link)
    files = open_files(str(tmp_path / "store"))
    list_archive(str(tmp_path / "a.tar.gz"), "identity", files, threads=1, progress=lambda name, done: None)
    contents = read_contents("identity", files)
    assert [(m.name, m.size, bool(m.problem)) for m in contents.members] == [
        ("train/\\xff.png", 1, False),
        ("train/" + "é" * 200, 0, False),
        ("README", 4, False),
        ("train/link.png", 0, True),
    ]
    assert contents.camera is None


def test_an_archive_that_holds_nothing_has_no_samples(tmp_path):
    tarfile.open(tmp_path / "a.tar.gz", "w:gz").close()
    files = open_files(str(tmp_path / "store"))
    with pytest.raises(SourceError, match="holds no sample"):
        segments_in(str(tmp_path / "a.tar.gz"), files)


# --- a store of an archive is the store of its tree ---


def content_of(store):
    """All that a store holds but how fast, when and of what it was made."""
    names = [name for name in store.index.column_names if name != "seconds"]
    rejects = pq.read_table(Path(store.files.root, "rejects.parquet")).drop_columns("source").to_pylist()
    return store.fingerprint, store.manifest["counts"], store.index.select(names).to_pylist(), rejects


def checksums_of(store):
    return {shard["path"]: shard["xxh3_128"] for shard in store.manifest["shards"]}


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (".tar", {}),
        (".tar.gz", {"splits": ("val",)}),
        (".zip", {"resplit": "val", "val_fraction": 0.3}),
        (".tar.gz", {"seed": 3, "height": 3, "width": 11}),
    ],
)
def test_an_archives_store_equals_its_trees(tmp_path, write, kind, changes):
    write.tree(tmp_path / "tree", {"train": {**TREE, "00002_00001_outdoor": 90}, "val": {"00003_00001_indoors": 70}})
    write.tree(tmp_path / "tree", {"val": {"00004_00001_indoors": 3, "00004_00002_indoors": 4}})
    archive = pack(tmp_path / f"diode{kind}", tmp_path / "tree", any_order)
    of_tree = write.store(tmp_path / "of tree", tmp_path / "tree", **changes)
    of_archive = write.store(tmp_path / "of archive", archive, **changes)
    assert len(checksums_of(of_tree)) >= 2
    assert checksums_of(of_archive) == checksums_of(of_tree)
    assert content_of(of_archive) == content_of(of_tree)


def test_an_archives_store_equals_its_trees_despite_rejects(tree, archive, tmp_path, write):
    of_tree = write.store(tmp_path / "of tree", tree)
    of_archive = write.store(tmp_path / "of archive", archive)
    assert of_tree.manifest["rejects"] == 4
    assert content_of(of_archive) == content_of(of_tree)


def test_a_tree_and_an_archive_make_the_store_of_two_trees(tmp_path, write):
    write.tree(tmp_path / "a", {"train": {"00001_00001_indoors": 9}})
    write.tree(tmp_path / "b", {"train": {"00001_00001_indoors": 2, "00002_00001_outdoor": 9}})
    archive = pack(tmp_path / "b.zip", tmp_path / "b", any_order)
    of_trees = write.store(tmp_path / "of trees", tmp_path / "a", tmp_path / "b")
    mixed = write.store(tmp_path / "mixed", tmp_path / "a", archive)
    assert of_trees.manifest["rejects_by_reason"] == {"duplicate": 2}
    fingerprint, _, samples, _ = content_of(mixed)
    assert (fingerprint, samples) == (of_trees.fingerprint, content_of(of_trees)[2])


def test_a_second_copy_of_an_archive_is_all_duplicates(tmp_path, write):
    write.tree(tmp_path / "tree", {"train": {SCAN: 9}})
    archives = [pack(tmp_path / name, tmp_path / "tree", any_order) for name in ("a.tar.gz", "b.zip")]
    store = write.store(tmp_path / "store", *archives)
    assert store.index.num_rows == 9
    assert store.manifest["rejects_by_reason"] == {"duplicate": 9}
