"""A tiny W3C WebDriver client over the standard library, for chromedriver and Debian's Chromium.

W3C WebDriver: https://www.w3.org/TR/webdriver2/ ; chromedriver adds `goog/cdp/execute`.
"""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the specification's key of an element reference
ARGUMENTS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    "--no-default-browser-check", "--disable-extensions", "--proxy-server=direct://",
)  # fmt: skip


class WebDriverError(Exception):
    """The browser could not do it; the text is the driver's."""


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Browser:
    """One headless Chromium with an empty profile. A context manager; everything waits with a limit."""

    def __init__(
        self, *, language: str = "en", width: int = 1280, height: int = 900, script: bool = True, dark: bool = False
    ) -> None:
        self._profile = tempfile.mkdtemp(prefix="chromium-")
        port = free_port()
        self._driver = subprocess.Popen(
            ["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._base = f"http://127.0.0.1:{port}"
        self._session = ""
        try:
            wait_for(self._answers, 20, "chromedriver answers")
            preferences: dict[str, Any] = {"intl.accept_languages": language}
            if not script:
                preferences["profile.managed_default_content_settings.javascript"] = 2
            options = {
                "args": [*ARGUMENTS, f"--user-data-dir={self._profile}", f"--lang={language}",
                         f"--window-size={width},{height}"],
                "prefs": preferences,
            }  # fmt: skip
            match = {
                "acceptInsecureCerts": True,
                "goog:chromeOptions": options,
                "goog:loggingPrefs": {"browser": "ALL"},
            }
            made = self._call("POST", "/session", {"capabilities": {"alwaysMatch": match}})
            self._session = f"/session/{made['sessionId']}"
            self.devtools(
                "Emulation.setDeviceMetricsOverride",
                width=width,
                height=height,
                deviceScaleFactor=1,
                mobile=width < 600,
            )
            if dark:
                self.devtools(
                    "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}]
                )
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._session:
            with contextlib.suppress(WebDriverError, OSError):
                self._call("DELETE", self._session)
        self._driver.terminate()
        try:
            self._driver.wait(10)
        except subprocess.TimeoutExpired:
            self._driver.kill()
            self._driver.wait()
        shutil.rmtree(self._profile, ignore_errors=True)

    # -- what a person does

    def open(self, url: str) -> None:
        self._call("POST", f"{self._session}/url", {"url": url})

    def address(self) -> str:
        return str(self._call("GET", f"{self._session}/url"))

    def text(self, css: str) -> str:
        """The visible text of the first element; "" if there is none, or it was just replaced."""
        return self._read(css, "text").strip()

    def attribute(self, css: str, name: str) -> str:
        return self._read(css, f"attribute/{name}")

    def click(self, css: str) -> None:
        self._call("POST", f"{self._session}/element/{self._find(css)}/click", {})

    def type(self, css: str, text: str) -> None:
        self._call("POST", f"{self._session}/element/{self._find(css)}/value", {"text": text})

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        """A PNG of what is seen, or of the whole page."""
        shot = self.devtools("Page.captureScreenshot", format="png", captureBeyondViewport=whole, **self._clip(whole))
        path.write_bytes(base64.b64decode(shot["data"]))

    def _clip(self, whole: bool) -> dict[str, Any]:
        if not whole:
            return {}
        size = self.devtools("Page.getLayoutMetrics")["cssContentSize"]
        return {"clip": {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}}

    # -- what a test asks

    def run(self, script: str, *args: object) -> Any:
        """The value of a script's `return`."""
        return self._call("POST", f"{self._session}/execute/sync", {"script": script, "args": list(args)})

    def devtools(self, method: str, **parameters: object) -> Any:
        body = {"cmd": method, "params": parameters}
        return self._call("POST", f"{self._session}/goog/cdp/execute", body)

    def console(self) -> list[str]:
        """What the page complained of since the last call: errors of its script, of the network, of the CSP."""
        rows = self._call("POST", f"{self._session}/se/log", {"type": "browser"})
        return [row["message"] for row in rows if row["level"] in ("WARNING", "SEVERE")]

    def _find(self, css: str) -> str:
        body = {"using": "css selector", "value": css}
        return str(self._call("POST", f"{self._session}/element", body)[ELEMENT])

    def _read(self, css: str, what: str) -> str:
        try:
            return str(self._call("GET", f"{self._session}/element/{self._find(css)}/{what}") or "")
        except WebDriverError:
            return ""

    def _answers(self) -> bool:
        try:
            return bool(self._call("GET", "/status")["ready"])
        except (OSError, WebDriverError):
            return False

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(self._base + path, data, {"Content-Type": "application/json"}, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as e:
            raise WebDriverError(json.load(e)["value"]["message"]) from e


def wait_for(so: Callable[[], Any], within_s: float, what: str) -> Any:
    """Wait until `so()` is true and return it; AssertionError naming `what` after `within_s`."""
    until_s = time.monotonic() + within_s
    while True:
        if found := so():
            return found
        if time.monotonic() > until_s:
            raise AssertionError(f"not within {within_s:g} s: {what}")
        time.sleep(0.05)
