"""A real browser without a window, spoken to through two pipes (Chrome DevTools Protocol): no port, no library, no profile left."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import IO, Any

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--hide-scrollbars", "--remote-debugging-pipe",
)  # fmt: skip


def program() -> str | None:
    """The browser of this machine, None where there is none."""
    return shutil.which("chromium") or shutil.which("google-chrome")


class Browser:
    """One page of one browser; ``seen`` are the events it told of, as (method, parameters)."""

    def __init__(self, to: IO[bytes], of: BufferedReader) -> None:
        self.to, self.of = to, of
        self.rest, self.last, self.session = b"", 0, ""
        self.seen: list[tuple[str, dict[str, Any]]] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Sends one command and waits for its answer; AssertionError with the browser's words if it refuses."""
        self.last += 1
        message = {"id": self.last, "method": method, "params": parameters, **({"sessionId": self.session} if self.session else {})}
        self.to.write(json.dumps(message).encode() + b"\0")
        while (said := self._next()).get("id") != self.last:
            self.seen.append((said.get("method", ""), said.get("params", {})))
        assert "error" not in said, f"{method}: {said['error']}"
        return said["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self.rest:
            part = self.of.read1(1 << 20)
            assert part, "the browser is gone"
            self.rest += part
        message, _, self.rest = self.rest.partition(b"\0")
        return json.loads(message)

    def open(self, page: Path, width: int = 1280, height: int = 900, **media: str) -> None:
        """Loads a file at that width; ``media`` like prefers-color-scheme, with underscores."""
        features = [{"name": name.replace("_", "-"), "value": value} for name, value in media.items()]
        self.ask("Emulation.setEmulatedMedia", features=features)
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        before = len(self.seen)
        self.ask("Page.navigate", url=page.resolve().as_uri())
        while not any(method == "Page.loadEventFired" for method, _ in self.seen[before:]):
            said = self._next()
            self.seen.append((said.get("method", ""), said.get("params", {})))

    def run(self, script: str) -> Any:
        """The value of an expression; it is the test's own, past the page's policy."""
        told = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def key(self, name: str, code: int) -> None:
        """Presses a key."""
        for kind in ("rawKeyDown", "keyUp"):
            self.ask("Input.dispatchKeyEvent", type=kind, key=name, code=name, windowsVirtualKeyCode=code)

    def pdf(self) -> bytes:
        """The page as it prints."""
        return base64.b64decode(self.ask("Page.printToPDF", preferCSSPageSize=True, printBackground=True)["data"])

    def requests(self) -> list[str]:
        """What was asked of any network or disk, the page itself left out."""
        asked = [told["request"]["url"] for method, told in self.seen if method == "Network.requestWillBeSent"]
        return asked[1:]


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A browser with a profile of its own; gone at the end, whatever happened."""
    here_out, there_in = os.pipe()
    there_out, here_in = os.pipe()
    there = [fcntl.fcntl(one, fcntl.F_DUPFD, 10) for one in (there_out, there_in)]  # out of the way of 3 and 4
    found = program()
    assert found is not None

    def numbered() -> None:  # the numbers that the browser knows
        os.dup2(there[0], 3)
        os.dup2(there[1], 4)

    process = subprocess.Popen(
        [found, *FLAGS, f"--user-data-dir={profile}", "about:blank"], preexec_fn=numbered, pass_fds=(3, 4),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    for one in (there_out, there_in, *there):
        os.close(one)
    with os.fdopen(here_in, "wb", buffering=0) as to, os.fdopen(here_out, "rb") as of:
        try:
            yield Browser(to, of)
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        process.wait()
