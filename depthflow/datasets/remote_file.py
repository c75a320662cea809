"""One file on an HTTP server, read in ranges: what may pass is waited out, what will not is said at once."""

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
"""A server may ask for more time with Retry-After than `Patience` would give it, up to this."""

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
    """A request failed in a way that the next attempt may not meet."""

    def __init__(self, message: str, asked_wait_s: float | None = None) -> None:
        super().__init__(message)
        self.asked_wait_s = asked_wait_s


class Stopped(Exception):
    """Ends a thread whose download has failed elsewhere."""


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long a server that fails is borne with.

    Attributes:
        attempts: failures in a row, with not one byte gained, after which it is given up.
        first_wait_s, longest_wait_s: the wait between two attempts doubles from the one to the other.
        silence_s: a connection that brings nothing for so long has failed.
    """

    attempts: int = 10
    first_wait_s: float = 1.0
    longest_wait_s: float = 60.0
    silence_s: float = 30.0

    def wait_s(self, failures: int, asked_s: float | None) -> float:
        """Seconds until the next attempt, never less than the server asks for within reason."""
        own_s = min(self.first_wait_s * 2 ** (failures - 1), self.longest_wait_s)
        return max(own_s, min(asked_s or 0.0, LONGEST_ASKED_WAIT_S))


@dataclass(frozen=True, kw_only=True)
class FileVersion:
    """What a server says that it has. Parts of two versions are never mixed.

    Attributes:
        size_bytes: of the whole file.
        etag: its ETag or, without one, its Last-Modified.
        ranges: whether the server sends parts of it.
    """

    url: str
    size_bytes: int
    etag: str | None
    ranges: bool


class RemoteFile:
    """Reads one URL, from several threads at once."""

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
                if failures > 1 or wait_s > self._patience.first_wait_s:  # A single cut is nothing to speak of.
                    _log.warning("%s Next attempt in %.0f s.", failure, wait_s)
                if self.stopped.wait(wait_s):
                    raise Stopped from None

    def look(self) -> FileVersion:
        """Asks for the first byte, to learn the file's size and version and whether the server sends ranges."""
        with self._get("bytes=0-0") as response:
            return self._version(response)

    def read(self, version: FileVersion, first: int, stop: int) -> Iterator[bytes]:
        """Bytes first up to stop, in chunks, by one request.

        From a server without ranges, all that lies before `first` is read again and thrown away.

        Raises:
            PassingFailure: when the answer ends early, or is not what was asked for.
            SourceError: when the file is not this version any more.
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
        """One GET, whose failures, also those while the body is read, come out as ours."""
        headers = {"Accept-Encoding": "identity"}  # The archive as it lies there, not a compression of it.
        if byte_range is not None:
            headers["Range"] = byte_range
            if etag is not None and not etag.startswith("W/"):  # Weak ones are not allowed here.
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
            raise SourceError(f"{self.url} cannot be asked for: {_reason(error)}. Check --base-url.") from error

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
                f"{self.url} is empty, or does not say how long it is, so that a cut could not be told from its end. "
                f"Received: {dict(headers)}. Take another --base-url."
            )
        etag = headers.get("ETag") or headers.get("Last-Modified")
        return FileVersion(url=self.url, size_bytes=int(size), etag=etag, ranges=ranges)

    def _check_answer(self, response: requests.Response, version: FileVersion, first: int, stop: int) -> None:
        """The answer is of this version, and it is the bytes that were asked for."""
        received = self._version(response)
        if received != version:
            raise SourceError(
                f"{self.url} changed while it was fetched: it was {version}. Received: {received}. Run the same "
                "command again: it starts anew where the file is another one."
            )
        span = response.headers.get("Content-Range")
        length = response.headers.get("Content-Length")
        if version.ranges and span != f"bytes {first}-{stop - 1}/{version.size_bytes}":
            raise PassingFailure(f"{self.url} was asked for bytes {first}-{stop - 1} and sent {span}.")
        if length not in (None, str(stop - first)):
            raise PassingFailure(f"{self.url} was asked for {stop - first} bytes and announced {length}.")


def _reason(error: BaseException) -> str:
    """What lies at the bottom of an error that three libraries have wrapped."""
    while error.__context__ is not None:
        error = error.__context__
    return str(error) or type(error).__name__
