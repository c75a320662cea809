"""Archives of every kind, written by the standard library."""

import io
import tarfile
import zipfile
from pathlib import Path

KINDS = (".tar", ".tar.gz", ".zip")


def tar_of(members, format=tarfile.PAX_FORMAT):
    """A tar of (name or TarInfo, content) pairs."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=format) as tar:
        for entry, content in members:
            info = entry if isinstance(entry, tarfile.TarInfo) else tarfile.TarInfo(entry)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def zip_of(members, compression=zipfile.ZIP_DEFLATED):
    """A zip of (name or ZipInfo, content) pairs; a ZipInfo has its own compression."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for entry, content in members:
            archive.writestr(entry, content)
    return stream.getvalue()


def pack(path, tree, order=sorted):
    """Packs a tree's files, named ./FILE in a tar, into an archive of the kind that its name says; returns its path."""
    files = order(sorted(file for file in Path(tree).rglob("*") if file.is_file()))
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in files:
                archive.write(file, file.relative_to(tree))
    else:
        with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
            for file in files:
                tar.add(file, arcname=f"./{file.relative_to(tree)}")
    return str(path)
