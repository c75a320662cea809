"""A headless Chromium that tests open pages in, driven by its DevTools protocol over a pipe."""

import base64
import io
import itertools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any

import numpy as np
import pytest
from PIL import Image

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",  # Which root, as in CI, cannot have.
    "--disable-dev-shm-usage",
    "--enable-unsafe-swiftshader",  # WebGL without a GPU.
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
PATIENCE_S = 120.0


class Tab:
    """An open page.

    Attributes:
        requests: Addresses of everything that it asked for, except for what is inside the page.
    """

    def __init__(self, pipe: "Pipe", session: str) -> None:
        self._pipe, self._session = pipe, session

    @property
    def requests(self) -> list[str]:
        sent = [event["params"] for event in self._pipe.events if event["method"] == "Network.requestWillBeSent"]
        addresses = [params["request"]["url"] for params in sent]
        return [address for address in addresses if not address.startswith(("data:", "blob:"))]

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        return self._pipe.call(method, self._session, **params)

    def run(self, script: str) -> Any:
        """Returns the value of an expression, awaited."""
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def picture(self, whole: bool = False) -> np.ndarray:
        """Returns (H, W, 3) uint8, what one sees, or the page from top to bottom."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB"))

    def picture_when(self, fits: Callable[[np.ndarray], bool]) -> np.ndarray:
        """Returns the first picture that fits: WebGL draws when it can."""
        deadline = time.monotonic() + PATIENCE_S
        while not fits(picture := self.picture()):
            if time.monotonic() > deadline:
                path = Path(gettempdir(), "not-as-expected.png")
                Image.fromarray(picture).save(path)
                pytest.fail(f"The page never looked as expected; {path} is how it looks.")
        return picture

    def mouse(self, kind: str, x: float, y: float, **params: Any) -> None:
        """Sends a mouse event at a place of the window."""
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **params)


class Pipe:
    """Commands to a browser, each waits for its answer; events are kept."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._out, self._in = os.fdopen(to_browser, "wb"), os.fdopen(from_browser, "rb")
        self._numbers = itertools.count(1)
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params, **({"sessionId": session} if session else {})}
        self._out.write(json.dumps(message).encode() + b"\0")
        self._out.flush()
        while True:
            answer = self._next()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def _next(self) -> dict[str, Any]:
        content = bytearray()
        while (byte := self._in.read(1)) != b"\0":
            assert byte, "Chromium ended."
            content += byte
        return json.loads(content)


@contextmanager
def opened(path: Path, *, width: int, height: int) -> Iterator[Tab]:
    """Opens a page in a window of this size, on a machine without a network, and waits until it is loaded.

    It skips the test where there is no Chromium, but not in CI.
    """
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        assert "CI" not in os.environ, "CI needs a Chromium."
        pytest.skip("no Chromium: apt-get install chromium")
    (read_commands, commands), (answers, write_answers) = os.pipe(), os.pipe()
    with TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        # Chromium reads commands from descriptor 3 and answers on descriptor 4.
        shell = f'exec 3<&{read_commands} 4>&{write_answers}; exec "$@"'
        process = subprocess.Popen(
            ["bash", "-c", shell, "bash", program, *FLAGS, f"--user-data-dir={profile}"],
            pass_fds=(read_commands, write_answers),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read_commands)
        os.close(write_answers)
        pipe = Pipe(commands, answers)
        try:
            target = pipe.call("Target.createTarget", url="about:blank")["targetId"]
            session = pipe.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            tab = Tab(pipe, session)
            tab.call("Network.enable")
            size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
            tab.call("Emulation.setDeviceMetricsOverride", **size)
            tab.call("Page.navigate", url=path.resolve().as_uri())
            tab.run("new Promise(done => document.readyState == 'complete' ? done() : addEventListener('load', done))")
            yield tab
        finally:
            process.kill()
            process.wait()
