"""A real browser without a window, spoken to through two pipes (Chrome DevTools Protocol): no port, no library, no profile left."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--hide-scrollbars", "--remote-debugging-pipe",
)  # fmt: skip


def program() -> str | None:
    """The browser of this machine, None where there is none."""
    return shutil.which("chromium") or shutil.which("google-chrome")


class Browser:
    """One page of one browser; ``seen`` are the events it told of, as (method, parameters)."""

    def __init__(self, to: int, of: int) -> None:
        self.to, self.of = os.fdopen(to, "wb", buffering=0), os.fdopen(of, "rb")
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
    found = program()
    assert found is not None
    arguments = [found, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    process = subprocess.Popen(  # 3 and 4 are the numbers the browser knows
        ["/bin/sh", "-c", f'exec "$0" "$@" 3<&{there_out} 4>&{there_in}', *arguments],
        pass_fds=(there_out, there_in), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    os.close(there_out)
    os.close(there_in)
    made: Browser | None = None
    try:
        made = Browser(here_in, here_out)
        yield made
    finally:
        _end(process, made.ask if made else None)
        for stream in (made.to, made.of) if made else ():
            stream.close()


def _end(process: subprocess.Popen[bytes], ask: Callable[..., Any] | None) -> None:
    if ask is not None and process.poll() is None:
        process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        process.wait()
