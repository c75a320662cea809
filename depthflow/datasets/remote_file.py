"""A file on an HTTP server, read in ranges: passing failures are retried, permanent ones reported at once."""

import logging
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import requests
import urllib3
from requests.adapters import HTTPAdapter

from depthflow.errors import SourceError

CHUNK_BYTES = 2**16
LONGEST_ASKED_WAIT_S = 600.0
"""Longest Retry-After, in seconds, that is honored beyond the waits of `Patience`."""

_CONTENT_RANGE = re.compile(r"bytes \d+-\d+/(\d+)")
_PASSING_STATUS = (408, 425, 429)  # And all of 5xx.
_PASSING_ERRORS = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
    urllib3.exceptions.HTTPError,
)
_Result = TypeVar("_Result")
_log = logging.getLogger(__name__)


class PassingFailure(Exception):
    """A failure of a request that may not happen at the next attempt."""

    def __init__(self, message: str, asked_wait_s: float | None = None) -> None:
        super().__init__(message)
        self.asked_wait_s = asked_wait_s


class Stopped(Exception):
    """Ends a thread whose download has failed elsewhere."""


@dataclass(frozen=True, kw_only=True)
class Patience:
    """Retry policy for a server that fails.

    Attributes:
        attempts: Number of failures in a row, without a new byte, after which the download fails.
        first_wait_s: Wait after the first failure; it doubles with each further one.
        longest_wait_s: Longest wait between two attempts.
        silence_s: Seconds without data after which a connection has failed.
    """

    attempts: int = 10
    first_wait_s: float = 1.0
    longest_wait_s: float = 60.0
    silence_s: float = 30.0

    def wait_s(self, failures: int, asked_s: float | None) -> float:
        """Returns the seconds until the next attempt, at least what the server asks for within reason."""
        own_s = min(self.first_wait_s * 2 ** (failures - 1), self.longest_wait_s)
        return max(own_s, min(asked_s or 0.0, LONGEST_ASKED_WAIT_S))


@dataclass(frozen=True, kw_only=True)
class FileVersion:
    """A file's version as the server reports it. Parts of two versions are never mixed.

    Attributes:
        url: URL of the file.
        size_bytes: Size of the whole file.
        etag: ETag of the file, or its Last-Modified if it has none.
        ranges: Whether the server supports range requests.
    """

    url: str
    size_bytes: int
    etag: str | None
    ranges: bool


class RemoteFile:
    """Reads one URL. Several threads may read at once."""

    def __init__(self, url: str, *, connections: int, patience: Patience) -> None:
        self.url = url
        self.connections = connections
        self.stopped = threading.Event()
        self._patience = patience
        self._session = requests.Session()
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(pool_maxsize=connections))

    def insist(self, attempt: Callable[[], _Result], done_bytes: Callable[[], int] = lambda: 0) -> _Result:
        """Calls `attempt` until it returns, with growing waits.

        Raises:
            SourceError: after `Patience.attempts` failures during which `done_bytes` did not grow.
            Stopped: when `stopped` is set.
        """
        failures, before = 0, done_bytes()
        while True:
            try:
                return attempt()
            except PassingFailure as failure:
                after = done_bytes()
                failures = 1 if after > before else failures + 1
                before = after
                if failures >= self._patience.attempts:
                    raise SourceError(
                        f"{failure} Given up after {failures} failures in a row. "
                        "Run the same command again: what has arrived is kept."
                    ) from failure
                wait_s = self._patience.wait_s(failures, failure.asked_wait_s)
                if failures > 1 or wait_s > self._patience.first_wait_s:  # One interruption is not worth a warning.
                    _log.warning("%s Next attempt in %.0f s.", failure, wait_s)
                if self.stopped.wait(wait_s):
                    raise Stopped from None

    def probe(self) -> FileVersion:
        """Requests the first byte, to learn the file's size and version and whether the server supports ranges."""
        with self._get("bytes=0-0") as response:
            return self._version(response)

    def read(self, version: FileVersion, first: int, stop: int) -> Iterator[bytes]:
        """Yields the bytes from `first` up to `stop` in chunks, by one request.

        From a server without ranges, everything before `first` is read again and discarded.

        Raises:
            PassingFailure: if the answer ends early, or is not what was requested.
            SourceError: if the file is no longer this version.
        """
        at = first if version.ranges else 0
        with self._get(f"bytes={at}-{stop - 1}" if version.ranges else None, version.etag) as response:
            self._check_answer(response, version, at, stop)
            for chunk in response.raw.stream(CHUNK_BYTES, decode_content=False):
                skipped = max(first - at, 0)
                at += len(chunk)
                if at > stop:
                    raise PassingFailure(f"{self.url} sent more than the {stop - first} bytes asked for.")
                if skipped < len(chunk):
                    yield chunk[skipped:]
        if at < stop:
            raise PassingFailure(f"{self.url} ended {stop - at} bytes too early.")

    @contextmanager
    def _get(self, byte_range: str | None, etag: str | None = None) -> Iterator[requests.Response]:
        """Makes a GET request whose failures, even while the body is read, are raised as this module's exceptions."""
        headers = {"Accept-Encoding": "identity"}  # The archive itself, not a compressed copy of it.
        if byte_range is not None:
            headers["Range"] = byte_range
            if etag is not None and not etag.startswith("W/"):  # If-Range does not allow weak ETags.
                headers["If-Range"] = etag
        try:
            with self._session.get(
                self.url, headers=headers, stream=True, timeout=self._patience.silence_s
            ) as response:
                self._check_status(response, byte_range)
                yield response
        except _PASSING_ERRORS as error:
            raise PassingFailure(f"{self.url} could not be read: {_reason(error)}.") from error
        except requests.RequestException as error:
            raise SourceError(f"{self.url} cannot be requested: {_reason(error)}. Check --base-url.") from error

    def _check_status(self, response: requests.Response, byte_range: str | None) -> None:
        status = response.status_code
        if status in (200, 206):
            return
        message = f"{self.url} answered {status} {response.reason} to {byte_range or 'a request for the whole file'}."
        if status in _PASSING_STATUS or status >= 500:
            raise PassingFailure(message, urllib3.Retry().get_retry_after(response.raw))
        raise SourceError(f"{message} Check that --base-url is a server that has this archive and lets you read it.")

    def _version(self, response: requests.Response) -> FileVersion:
        headers = response.headers
        ranges = response.status_code == 206
        size = headers.get("Content-Length", "")
        if ranges:
            match = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
            size = match[1] if match else ""
        if not size.isdecimal() or int(size) == 0:
            raise SourceError(
                f"{self.url} is empty or does not report its size, so that truncation could not be detected. "
                f"Received: {dict(headers)}. Take another --base-url."
            )
        etag = headers.get("ETag") or headers.get("Last-Modified")
        return FileVersion(url=self.url, size_bytes=int(size), etag=etag, ranges=ranges)

    def _check_answer(self, response: requests.Response, version: FileVersion, first: int, stop: int) -> None:
        """Checks that the answer is of this version and has the requested bytes."""
        received = self._version(response)
        if received != version:
            raise SourceError(
                f"{self.url} changed while it was fetched: it was {version}. Received: {received}. Run the same "
                "command again: it starts over if the file has changed."
            )
        span = response.headers.get("Content-Range")
        length = response.headers.get("Content-Length")
        if version.ranges and span != f"bytes {first}-{stop - 1}/{version.size_bytes}":
            raise PassingFailure(f"{self.url} was asked for bytes {first}-{stop - 1} and sent {span}.")
        if length not in (None, str(stop - first)):
            raise PassingFailure(f"{self.url} was asked for {stop - first} bytes and announced {length}.")


def _reason(error: BaseException) -> str:
    """Returns the root cause of an error that three libraries have wrapped."""
    while error.__context__ is not None:
        error = error.__context__
    return str(error) or type(error).__name__
