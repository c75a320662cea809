"""Where things lie: s3:// and gs:// through fsspec, and everything without a scheme on a disk."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from depthflow.errors import DepthflowError

EXTRAS = {"s3": "s3", "gs": "gcs"}
"""URI scheme to the extra of this package that brings its client."""


def is_uri(location: str) -> bool:
    """Whether a location is an object store's, s3://bucket/key or gs://bucket/key."""
    return "://" in location


def absolute(location: str) -> str:
    """The location as processes with another working directory find it: a URI as it is, a path made absolute."""
    return location.rstrip("/") if is_uri(location) else str(Path(location).absolute())


def object_store(uri: str, error: type[DepthflowError]) -> tuple[Any, str]:
    """The fsspec filesystem of a URI, which remembers no listing, and the path in it.

    Credentials and endpoint come from the environment, as every client of these stores reads them: AWS_PROFILE,
    AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, GOOGLE_APPLICATION_CREDENTIALS, ...

    Args:
        error: raised for a scheme that is not known or whose client is not installed, and where no bucket is named.
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
    """Tells what a disk or an object store refuses as a message to the user.

    Args:
        absence_passes: whether a `FileNotFoundError` passes as it is. Where something is written or listed, it is the
            bucket that is missing.
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
