"""A disk that takes no more."""

import contextlib
import resource


@contextlib.contextmanager
def files_at_most(size_bytes):
    """Has the kernel refuse to let any file of this process grow beyond a size."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
