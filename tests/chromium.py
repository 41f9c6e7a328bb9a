"""Headless Chromium for tests of pages, spoken to over a pipe by its own DevTools protocol: the standard library alone.

Which browser: `EFFICIENTLLM_CHROMIUM`, else the first of the usual names on the path. Where there is none these tests
are left out, and the end of the run says so.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

_NAMES = (
    "chromium", "chromium-browser", "google-chrome", "chrome",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome", "/Applications/Chromium.app/Contents/MacOS/Chromium",
)  # fmt: skip
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--disable-extensions",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage", "--no-proxy-server",
    "--remote-debugging-pipe",
)  # fmt: skip
#: Puts the pipes where the browser looks for them (3 to read, 4 to write), and becomes the browser.
_JOIN = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
)
_TIMEOUT_S = 20.0
_KEYS = {
    "Enter": 13,
    "Escape": 27,
    "Tab": 9,
    "ArrowLeft": 37,
    "ArrowUp": 38,
    "ArrowRight": 39,
    "ArrowDown": 40,
    " ": 32,
}


def executable() -> str:
    """Return the browser; leave the test out where there is none, fail where the one that was named is not there."""
    told = os.environ.get("EFFICIENTLLM_CHROMIUM", "")
    found = next((path for name in ((told,) if told else _NAMES) if (path := shutil.which(name))), "")
    if told and not found:
        pytest.fail(f"EFFICIENTLLM_CHROMIUM names {told}, which is no program here.")
    if not found:
        pytest.skip(
            "the page is opened in no browser: none is installed. Install Chromium, or set EFFICIENTLLM_CHROMIUM."
        )
    return found


class Browser:
    """One browser process; `open` gives a page of its own each time."""

    def __init__(self) -> None:
        program = executable()
        self._folder = tempfile.TemporaryDirectory(prefix="page-", ignore_cleanup_errors=True)
        theirs, self._write = _pipe()
        self._read, their_end = _pipe()
        command = [program, *_FLAGS, f"--user-data-dir={self._folder.name}", "about:blank"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _JOIN, str(theirs), str(their_end), *command], pass_fds=(theirs, their_end),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        os.close(theirs)
        os.close(their_end)
        self._number, self._buffer, self.events = 0, b"", list[dict[str, Any]]()

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.call("Browser.close")
            self._process.wait(5)
        except (OSError, RuntimeError, subprocess.TimeoutExpired):
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        for end in (self._read, self._write):
            os.close(end)
        self._folder.cleanup()

    def call(self, method: str, session: str = "", **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result; events that come meanwhile are kept."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            found = self._next(method)
            if found.get("id") == self._number:
                if "error" in found:
                    raise RuntimeError(f"{method}: {found['error']['message']}")
                return found["result"]
            self.events.append(found)

    def wait(self, method: str, session: str) -> None:
        """Wait for an event of a session that has not been waited for yet."""
        while True:
            for index, event in enumerate(self.events):
                if event.get("method") == method and event.get("sessionId") == session:
                    del self.events[index]
                    return
            self.events.append(self._next(method))

    def _next(self, what: str) -> dict[str, Any]:
        end = time.monotonic() + _TIMEOUT_S
        while b"\0" not in self._buffer:
            if not select.select([self._read], [], [], max(0.0, end - time.monotonic()))[0]:
                raise RuntimeError(f"the browser did not answer {what} within {_TIMEOUT_S:.0f} s")
            came = os.read(self._read, 1 << 20)
            if not came:
                raise RuntimeError(f"the browser ended during {what}")
            self._buffer += came
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def open(self, path: Path, width: int = 1400, height: int = 900, dark: bool = False, hash_: str = "") -> Page:
        """Open a file in a new page and wait until it has loaded."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session, target)
        for domain in ("Page", "Runtime", "Network", "Log"):
            page.call(f"{domain}.enable")
        page.look(width, height, dark)
        page.go(path, hash_)
        return page


class Page:
    """One page: what it says, and what a reader's hands do."""

    def __init__(self, browser: Browser, session: str, target: str) -> None:
        self._browser, self._session, self._target = browser, session, target

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command to this page."""
        return self._browser.call(method, self._session, **parameters)

    def go(self, path: Path, hash_: str = "") -> None:
        """Load a file, with a hash."""
        self.call("Page.navigate", url=path.resolve().as_uri() + hash_)
        self._browser.wait("Page.loadEventFired", self._session)

    def look(self, width: int, height: int = 900, dark: bool = False, media: str = "") -> None:
        """Set width and height, the system's colours, and the medium (`print`); nothing moves smoothly."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        scheme.append({"name": "prefers-reduced-motion", "value": "reduce"})
        self.call("Emulation.setEmulatedMedia", media=media, features=scheme)

    def js(self, expression: str) -> Any:
        """Return an expression's value; a promise is waited for."""
        done = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True, userGesture=True
        )
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def until(self, expression: str) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + _TIMEOUT_S
        while not self.js(expression):
            assert time.monotonic() < end, f"never true: {expression}"

    def texts(self, selector: str) -> list[str]:
        """Return what the elements of a selector say that are not hidden; far below they are not laid out yet."""
        visible = "[...document.querySelectorAll(%s)].filter(e => e.checkVisibility()).map(e => (e.innerText || e.textContent).trim())"
        return self.js(visible % json.dumps(selector))

    def point(self, selector: str) -> tuple[float, float]:
        """Scroll to an element and return its middle."""
        found = self.js(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); if (!e) return null; "
            "e.scrollIntoView({block: 'center', behavior: 'instant'}); const r = e.getBoundingClientRect(); "
            "return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        assert found, f"there is no {selector}"
        return found[0], found[1]

    def hover(self, selector: str) -> None:
        """Move the pointer onto an element."""
        x, y = self.point(selector)
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        self.js("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done())))")

    def click(self, selector: str) -> None:
        """Click into the middle of an element."""
        x, y = self.point(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, *keys: str) -> None:
        """Press keys one after another."""
        for key in keys:
            text = {"text": "\r"} if key == "Enter" else {}
            code = _KEYS[key]
            self.call("Input.dispatchKeyEvent", type="keyDown", key=key, code=key, windowsVirtualKeyCode=code, **text)
            self.call("Input.dispatchKeyEvent", type="keyUp", key=key, code=key, windowsVirtualKeyCode=code)

    def type(self, text: str) -> None:
        """Type a text where the focus is."""
        self.call("Input.insertText", text=text)

    def screenshot(self, file: Path, whole: bool = False) -> None:
        """Write what is seen, or the whole page, as PNG."""
        taken = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole, fromSurface=True,
                          **({"clip": self._extent()} if whole else {}))  # fmt: skip
        file.write_bytes(base64.b64decode(taken["data"]))

    def _extent(self) -> dict[str, float]:
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        return {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}

    def complaints(self) -> list[str]:
        """Return the exceptions, console errors and warnings so far."""
        said = []
        for event in self._events():
            if event["method"] == "Runtime.exceptionThrown":
                said.append(json.dumps(event["params"]["exceptionDetails"])[:500])
            if event["method"] == "Runtime.consoleAPICalled" and event["params"]["type"] in (
                "error",
                "warning",
                "assert",
            ):
                said.append(json.dumps(event["params"]["args"])[:500])
            if event["method"] == "Log.entryAdded" and event["params"]["entry"]["level"] in ("error", "warning"):
                said.append(event["params"]["entry"]["text"])
        return said

    def requests(self) -> list[str]:
        """Return the addresses that were asked for."""
        sent = (event for event in self._events() if event["method"] == "Network.requestWillBeSent")
        return [event["params"]["request"]["url"] for event in sent]

    def _events(self) -> list[dict[str, Any]]:
        self.js("0")  # what has been said by now arrives before the answer
        return [event for event in self._browser.events if event.get("sessionId") == self._session]

    def close(self) -> None:
        """Close the page."""
        self._browser.call("Target.closeTarget", targetId=self._target)


def _pipe() -> tuple[int, int]:
    """Return a pipe whose ends are not 3 or 4, where the browser looks for its own."""
    ends = os.pipe()
    moved = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in ends]
    for end in ends:
        os.close(end)
    return moved[0], moved[1]
