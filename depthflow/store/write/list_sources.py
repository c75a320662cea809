"""Lists the sources of a run: trees in the driver, archives in a Ray task each."""

from collections.abc import Callable, Mapping

from depthflow.datasets.archive import archive_bytes, archive_identity, is_archive
from depthflow.observability.logs import tell
from depthflow.placement import cluster_capacity, plan_data
from depthflow.storage.files import StoreFiles
from depthflow.storage.location import absolute
from depthflow.store.write.config import PreprocessConfig
from depthflow.store.write.sources import Source, list_archive, read_archive, read_tree
from depthflow.store.write.tasks import Limits, Outcome, Reporter, run_tasks

Progress = Callable[[int, int], None]
"""Called with the number of items done and the total."""


def archive_identities(config: PreprocessConfig) -> dict[str, str]:
    """Returns the location and the identity of each source that is an archive; see `archive_identity`."""
    return {path: archive_identity(path) for path in map(absolute, config.source) if is_archive(path)}


def list_sources(
    config: PreprocessConfig, files: StoreFiles, limits: Limits, progress: Callable[[str], Progress]
) -> list[Source]:
    """Lists the sources, and says which layout was recognised, unless in a dry run, which says more of each.

    Raises:
        SourceError: if one is missing, damaged or holds no frame.
    """
    splits, needed, identities = config.source_splits, config.needed, archive_identities(config)
    _list_archives(identities, files, limits, progress("archives listed, in MiB"))
    listed = []
    for location, layout in zip(map(absolute, config.source), config.layouts, strict=True):
        if location in identities:
            source: Source = read_archive(location, identities[location], splits, files, layout, needed=needed)
        else:
            source = read_tree(location, splits, layout, needed=needed)
        if layout is None and not config.dry_run:
            tell(f"{location}: {source.frames.num_rows:,} frames in the layout {source.layout}")
        listed.append(source)
    return listed


def _list_archives(identities: Mapping[str, str], files: StoreFiles, limits: Limits, progress: Progress) -> None:
    """Lists each archive in one task, with a thread for each CPU of its node; it borrows them rather than wait."""
    if not identities:
        return
    threads = plan_data(**cluster_capacity()).most_cpus
    sizes_mib = {archive: archive_bytes(archive) // 2**20 for archive in identities}
    total_mib = sum(sizes_mib.values())

    def work(archive: str, reporter: Reporter) -> Outcome:
        def show(member: str, position_bytes: int) -> None:
            reporter.begin(member, done=position_bytes // 2**20)

        list_archive(archive, identities[archive], files, threads=threads, progress=show)
        return Outcome(sizes_mib[archive])

    run_tasks([*identities], work, limits=limits, progress=lambda done_mib, _: progress(done_mib, total_mib))
