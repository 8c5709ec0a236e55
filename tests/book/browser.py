"""A headless Chromium, driven over its debugging protocol with the websocket client that Jupyter brings along."""

import itertools
import json
import re
import shutil
import subprocess
import tempfile
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import websocket

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
Event = dict[str, Any]


class MissingBrowser(OSError):
    """There is no Chromium here; the message says how to get one."""


def find_browser() -> str:
    """Return the path of a Chromium.

    Raises:
        MissingBrowser: if there is none.
    """
    for name in NAMES:
        if path := shutil.which(name):
            return path
    raise MissingBrowser("no browser to look at the pages with: apt install chromium (or put Chrome on the PATH)")


class Tab:
    """One tab: send commands, and collect what the page does meanwhile."""

    def __init__(self, address: str) -> None:
        self.socket = websocket.create_connection(address, timeout=300, suppress_origin=True, max_size=None)
        self.numbers = itertools.count(1)
        self.session: str | None = None
        self.events: list[Event] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> Any:
        """Send a command and return its result.

        Raises:
            RuntimeError: if the browser refuses it.
        """
        number = next(self.numbers)
        message: Event = {"id": number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        self.socket.send(json.dumps(message))
        while (answer := self.receive()).get("id") != number:
            pass
        if "error" in answer:
            raise RuntimeError(f"the browser refuses {method}: {answer['error']}")
        return answer["result"]

    def receive(self) -> Event:
        """Return the next message; events are kept."""
        message: Event = json.loads(self.socket.recv())
        if "method" in message:
            self.events.append(message)
        return message

    def open(self, address: str, width: int, height: int, dark: bool) -> None:
        """Load a page in a window of some size, in light or dark mode, and wait until it and its formulas are done."""
        self.events.clear()
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        self.send("Page.navigate", url=address)
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.receive()
        self.run("window.MathJax?.startup?.promise?.then(() => true) ?? true")
        self.run("document.fonts.ready.then(() => true)")
        self.run("document.getAnimations().forEach(each => each.finish()); true")  # a sidebar slides in

    def run(self, script: str) -> Any:
        """Evaluate JavaScript, wait for its promise, and return its value.

        Raises:
            RuntimeError: if the script throws.
        """
        result = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in result:
            raise RuntimeError(f"a script of the check fails: {result['exceptionDetails']}")
        return result["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """Write the whole page as a PNG."""
        size = self.send("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 12_000), "scale": 1}
        data = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)["data"]
        path.write_bytes(b64decode(data))


@contextmanager
def chromium() -> Iterator[Tab]:
    """Start a headless Chromium with a profile of its own, and end it afterwards."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [find_browser(), "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += ["--no-first-run", "--disable-background-networking", "--disable-component-update"]
        command += ["--disable-dev-shm-usage", "--allow-file-access-from-files"]
        command += [f"--user-data-dir={profile}", "--remote-debugging-port=0", "about:blank"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        tab = None
        try:
            tab = Tab(_address(process))
            yield tab
        finally:
            if tab is not None:
                tab.socket.close()
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()
            if process.stderr is not None:
                process.stderr.close()


def _address(process: subprocess.Popen[str]) -> str:
    said = []
    for line in process.stderr or ():
        said.append(line)
        if found := re.search(r"DevTools listening on (ws://\S+)", line):
            return found[1]
    raise RuntimeError("the browser ended before it could be reached:\n" + "".join(said)[-2000:])
