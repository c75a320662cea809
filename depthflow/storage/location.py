"""Locations: s3:// and gs:// URIs through fsspec, and paths on a disk."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from depthflow.errors import DepthflowError

EXTRAS = {"s3": "s3", "gs": "gcs"}
"""URI scheme to the extra of this package that installs its client."""


def is_uri(location: str) -> bool:
    """Whether a location has a scheme, as s3://bucket/key and gs://bucket/key do."""
    return "://" in location


def absolute(location: str) -> str:
    """Returns a location that does not depend on the working directory: a URI unchanged, or an absolute path."""
    return location.rstrip("/") if is_uri(location) else str(Path(location).absolute())


def object_store(uri: str, error: type[DepthflowError]) -> tuple[Any, str]:
    """Returns the fsspec filesystem of a URI, which caches no listings, and the path in it.

    Credentials and endpoint come from the environment variables that every client of these stores reads: AWS_PROFILE,
    AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, GOOGLE_APPLICATION_CREDENTIALS, ...

    Args:
        error: Raised for an unknown scheme, a client that is not installed, or a missing bucket name.
    """
    import fsspec

    scheme, _, place = uri.partition("://")
    if scheme not in EXTRAS or not place.strip("/"):
        raise error(f"A location must be a path, s3://bucket/key or gs://bucket/key. Received: {uri}")
    try:
        filesystem, path = fsspec.url_to_fs(uri, use_listings_cache=False)
    except ImportError:
        raise error(f"{uri} needs another package: pip install 'depthflow[{EXTRAS[scheme]}]'.") from None
    return filesystem, path.rstrip("/")


@contextmanager
def reported(what: str, error: type[DepthflowError], *, absence_passes: bool = True) -> Iterator[None]:
    """Turns an error of a disk or an object store into a message for the user.

    Args:
        absence_passes: Whether a `FileNotFoundError` passes unchanged. When writing or listing, it means that the
            bucket is missing.
    """
    try:
        yield
    except DepthflowError:
        raise
    except Exception as caught:  # Each client has exceptions of its own, and not all of them are OSErrors.
        if absence_passes and isinstance(caught, FileNotFoundError):
            raise
        if not isinstance(caught, OSError) and type(caught).__module__.split(".")[0] not in _CLIENTS:
            raise
        raise error(f"{what}: {type(caught).__name__}: {caught}. Check the address, credentials and network.") from None


_CLIENTS = ("botocore", "aiobotocore", "aiohttp", "gcsfs", "google", "s3fs", "fsspec")
