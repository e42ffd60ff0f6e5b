"""A headless Chromium by the WebDriver protocol, in as much as the tests of the guide need."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from typing import Any

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",  # in CI everything runs as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",  # what Chromium asks for by itself is no request of a page
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE_S = 30
POLL_S = 0.05


def installed() -> tuple[str, str] | None:
    """Where chromedriver and Chromium are; None where they are not."""
    driver = shutil.which("chromedriver")
    browser = next(filter(None, map(shutil.which, CHROMIUM)), None)
    return (driver, browser) if driver and browser else None


class Browser:
    """One session of a browser. `close` ends it."""

    def __init__(self, driver: str, chromium: str) -> None:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = found.getsockname()[1]
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self._driver = subprocess.Popen(
            [driver, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._root = f"http://127.0.0.1:{port}"
        self._session = ""
        self.wait(lambda: self._ready(), "chromedriver starts")
        options = {"binary": chromium, "args": [*FLAGS, f"--user-data-dir={self._profile.name}"]}
        logs = {"browser": "ALL", "performance": "ALL"}
        asked = {"alwaysMatch": {"goog:chromeOptions": options, "goog:loggingPrefs": logs}}
        self._session = "/session/" + self._call("POST", "/session", {"capabilities": asked})["sessionId"]

    def close(self) -> None:
        self._call("DELETE", "", {})
        self._driver.terminate()
        self._driver.wait(PATIENCE_S)
        self._profile.cleanup()

    def open(self, address: str) -> None:
        """Load a page, and wait until it has loaded."""
        self._call("POST", "/url", {"url": address})

    def run(self, script: str, *arguments: Any) -> Any:
        """What a JavaScript function body returns."""
        return self._call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def wait_for(self, script: str, what: str) -> Any:
        """The first true value of an expression."""
        return self.wait(lambda: self.run(f"return {script}"), what)

    def command(self, name: str, **parameters: Any) -> Any:
        """A command of the browser's development tools."""
        return self._call("POST", "/goog/cdp/execute", {"cmd": name, "params": parameters})

    def width(self, pixels: int) -> None:
        self.command(
            "Emulation.setDeviceMetricsOverride", width=pixels, height=900, deviceScaleFactor=1, mobile=pixels < 600
        )

    def prefer(self, **features: str) -> None:
        """What the reader's system prefers: `color_scheme="dark"`, `reduced_motion="reduce"`."""
        wanted = [{"name": f"prefers-{name.replace('_', '-')}", "value": value} for name, value in features.items()]
        self.command("Emulation.setEmulatedMedia", features=wanted)

    def press(self, key: str) -> None:
        """A key, held down and let go."""
        keys = [{"type": kind, "value": key} for kind in ("keyDown", "keyUp")]
        self._call("POST", "/actions", {"actions": [{"type": "key", "id": "keys", "actions": keys}]})

    def messages(self) -> list[str]:
        """The errors on the console since the last call: of scripts, and of what could not be loaded."""
        entries = self._call("POST", "/se/log", {"type": "browser"})
        return [entry["message"] for entry in entries if entry["level"] == "SEVERE"]

    def requests(self) -> list[str]:
        """The addresses that pages asked for since the last call."""
        entries = self._call("POST", "/se/log", {"type": "performance"})
        events = [json.loads(entry["message"])["message"] for entry in entries]
        return [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]

    def wait(self, condition: Any, what: str) -> Any:
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            found = condition()
            if found:
                return found
            time.sleep(POLL_S)
        raise TimeoutError(f"waited {PATIENCE_S} s until {what}")

    def _ready(self) -> bool:
        try:
            return bool(self._call("GET", "/status", None)["ready"])
        except (urllib.error.URLError, ConnectionError):
            return False

    def _call(self, verb: str, path: str, body: Any) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._root + self._session + path, data, method=verb)
        request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=2 * PATIENCE_S) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(json.load(error)["value"]["message"]) from None
