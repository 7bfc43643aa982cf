"""A real headless Chromium for tests, driven over its debugging pipe: no driver, no port, no further dependency.

Everything waits at most `TIMEOUT_S`, the browser lives in its own process group and profile, and both are gone
afterwards.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TIMEOUT_S = 60.0
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run", "--no-default-browser-check",
    "--remote-debugging-pipe",
)  # fmt: skip

# Chromium talks over file descriptors 3 and 4, whatever numbers the pipes have here.
_EXEC = """import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]
for number, end in zip((3, 4), ends): os.dup2(end, number)
os.execvp(sys.argv[3], sys.argv[3:])"""


def find_chromium() -> str | None:
    """The path of a Chromium, None where there is none."""
    return next((path for name in _NAMES if (path := shutil.which(name))), None)


class BrowserError(Exception):
    """The browser did not do what it was told, or not in time."""


class Browser:
    """The pages of a browser, one of which is in front and is meant; `events` are all they have reported so far."""

    def __init__(self, send: int, receive: int) -> None:
        self._send, self._receive = send, receive
        self._unread = b""
        self._number = 0
        self._session = ""
        self.events: list[dict[str, Any]] = []

    def start_page(self) -> None:
        """Open an empty page in front of the others and listen to its console, its errors and its network."""
        self._session = ""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    @property
    def page(self) -> str:
        """The page in front, for `show_page`."""
        return self._session

    def show_page(self, page: str) -> None:
        """Bring a page to the front again."""
        self._session = page
        self.call("Page.bringToFront")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the DevTools protocol; its result. Errors: BrowserError."""
        self._number += 1
        number = self._number
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._send, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            answer = self._read(deadline)
            if answer.get("id") == number:
                if "error" in answer:
                    raise BrowserError(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result

    def wait_for(self, method: str) -> dict[str, Any]:
        """The next event of this name."""
        deadline = time.monotonic() + TIMEOUT_S
        while (event := self._read(deadline)).get("method") != method:
            pass
        parameters: dict[str, Any] = event["params"]
        return parameters

    def open(self, path: Path) -> None:
        """Load a file and wait until it has loaded."""
        self.call("Page.navigate", url=path.as_uri())
        self.wait_for("Page.loadEventFired")

    def run(self, script: str) -> Any:
        """The value of an expression in the page; promises are awaited. Errors: BrowserError."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise BrowserError(str(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def press(self, key: str, code: int, text: str = "") -> None:
        """Press and release a key."""
        named = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **named)
        self.call("Input.dispatchKeyEvent", type="keyUp", **named)

    def set_media(self, media: str = "screen", scheme: str = "light") -> None:
        """Pretend to be a dark or light screen, or paper."""
        self.call(
            "Emulation.setEmulatedMedia", media=media, features=[{"name": "prefers-color-scheme", "value": scheme}]
        )

    def set_width(self, width: int, height: int = 900) -> None:
        """Pretend to be a device of this width, a phone where it is narrow."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    def take_screenshot(self, path: Path) -> None:
        """Save what is to be seen as PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def complaints(self) -> list[str]:
        """Errors and warnings of the console and of scripts."""
        found = []
        for event in self.events:
            method, parameters = event["method"], event["params"]
            if method == "Runtime.exceptionThrown" or (
                method == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning", "assert")
            ):
                found.append(json.dumps(parameters))
            if method == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"):
                found.append(parameters["entry"]["text"])
        return found

    def requests(self) -> list[str]:
        """The address of everything the page asked for, without data in the page itself."""
        urls = [e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"]
        return [url for url in urls if not url.startswith("data:")]

    def _read(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._unread:
            ready, _, _ = select.select([self._receive], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise BrowserError(f"no answer within {TIMEOUT_S:.0f} s")
            piece = os.read(self._receive, 1 << 20)
            if not piece:
                raise BrowserError("the browser has ended")
            self._unread += piece
        line, _, self._unread = self._unread.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        if "method" in message:
            self.events.append(message)
        return message


@contextlib.contextmanager
def open_browser(chromium: str, folder: Path) -> Iterator[Browser]:
    """A browser with one empty page; its profile lies in `folder`."""
    their_input, our_output = os.pipe()
    our_input, their_output = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", _EXEC, str(their_input), str(their_output), chromium, *_OPTIONS,
         f"--user-data-dir={folder / 'profile'}", "about:blank"],
        pass_fds=(their_input, their_output), start_new_session=True, env={**os.environ, "HOME": str(folder)},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(their_input)
    os.close(their_output)
    try:
        browser = Browser(our_output, our_input)
        browser.start_page()
        yield browser
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=TIMEOUT_S)
        os.close(our_output)
        os.close(our_input)
