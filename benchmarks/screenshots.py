"""Open a page in a headless Chromium, network off, and take its picture: light and dark, as on a desktop and a phone.

    python benchmarks/screenshots.py runs/demo/report.html --out screenshots
    python benchmarks/screenshots.py --scripts build/docs/index.html --out screenshots

writes `desktop_light.png` (1280 x 800, the first screen) and `phone_light.png` (390 x 844), the same with `_page` at
the end of the name (the whole page), all of these in dark colours, and `paper.pdf`. It prints the width and height of
the page, and what it tried to load. Scripts run only with `--scripts`: a report has none, the documentation site has.

It needs no driver and no package: it controls the browser through a pipe, in the Chrome DevTools Protocol. To use a
binary that is not found by itself, name it in CHROMIUM.
"""

from __future__ import annotations

import argparse
import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
WIDTHS = {"desktop": (1280, 800), "phone": (390, 844)}  # CSS pixels
SCHEMES = ("light", "dark")
TIMEOUT_S = 60.0
WIRE = "import os, sys; [os.dup2(int(sys.argv[n]), n + 2) for n in (1, 2)]; os.execv(sys.argv[3], sys.argv[3:])"
FLAGS = (
    *("--headless=new", "--remote-debugging-pipe", "--no-first-run", "--no-default-browser-check", "--disable-gpu"),
    *("--disable-extensions", "--disable-background-networking", "--disable-sync", "--hide-scrollbars"),
    *("--disable-dev-shm-usage", "--host-resolver-rules=MAP * ~NOTFOUND"),  # no name has an address
)


def find_browser() -> str | None:
    """Return the path of a Chromium; None if there is none."""
    names = [os.environ["CHROMIUM"]] if os.environ.get("CHROMIUM") else NAMES
    return next((path for name in names if (path := shutil.which(name))), None)


class Page:
    """One page of a browser that may load nothing, and runs scripts only if `scripts` is true.

    Attributes:
        requests: Addresses that the page asked for, except its own.
        complaints: What the browser logged, such as what the page's policy refused.
    """

    def __init__(
        self, browser: Browser, width: int, height: int, *, scheme: str = "light", scripts: bool = False
    ) -> None:
        self.browser, self.height = browser, height
        self.requests: list[str] = []
        self.complaints: list[str] = []
        visitor = browser.call("Target.createBrowserContext")["browserContextId"]  # keeps nothing of other pages
        target = browser.call("Target.createTarget", url="about:blank", browserContextId=visitor)["targetId"]
        self.session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Emulation.setScriptExecutionDisabled", value=not scripts)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("Network.enable")
        quiet = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        self.call("Network.emulateNetworkConditions", offline=True, **quiet)
        self.call("Log.enable")
        self.call("Page.enable")
        self.call("DOM.enable")
        self.resize(width, height)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol on this page."""
        return self.browser.call(method, self.session, **parameters)

    def resize(self, width: int, height: int) -> None:
        """Set the size of the window in CSS pixels; a width below 500 is a phone with two dots to a pixel."""
        mobile = width < 500
        metrics = {"deviceScaleFactor": 2 if mobile else 1, "mobile": mobile}
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, **metrics)

    def open(self, path: Path) -> None:
        """Open a file and wait until it is loaded."""
        address = path.resolve().as_uri()
        self.call("Page.navigate", url=address)
        for event in self.browser.events(self.session):
            parameters = event["params"]
            if event["method"] == "Network.requestWillBeSent":
                url = parameters["request"]["url"]
                if url != address and not url.startswith("data:"):
                    self.requests.append(url)
            elif event["method"] == "Log.entryAdded":
                self.complaints.append(parameters["entry"]["text"])
            elif event["method"] == "Page.loadEventFired":
                return

    def size(self) -> tuple[int, int]:
        """Return width and height of the page in CSS pixels. If it is wider than the window, it scrolls sideways."""
        found = self.call("Page.getLayoutMetrics")["cssContentSize"]
        return round(found["width"]), round(found["height"])

    def box(self, selector: str) -> tuple[float, float, float, float]:
        """Return left, top, right and bottom of the first element of a CSS selector, in CSS pixels."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        corners = self.call("DOM.getBoxModel", nodeId=node)["model"]["border"]
        return corners[0], corners[1], corners[4], corners[5]

    def html(self) -> str:
        """Return the document as the browser understood it."""
        root = self.call("DOM.getDocument", depth=-1)["root"]["nodeId"]
        return self.call("DOM.getOuterHTML", nodeId=root)["outerHTML"]

    def screenshot(self, *, whole: bool = False) -> bytes:
        """Return a PNG of the window, or of the whole page."""
        more: dict[str, Any] = {}
        if whole:
            width, height = self.size()
            clip = {"x": 0, "y": 0, "width": width, "height": min(height, 16_000), "scale": 1}
            more = {"captureBeyondViewport": True, "clip": clip}
        return base64.b64decode(self.call("Page.captureScreenshot", format="png", **more)["data"])

    def pdf(self) -> bytes:
        """Return the page as it is printed, on A4 or what the page asks for."""
        paper = {"paperWidth": 8.27, "paperHeight": 11.69, "preferCSSPageSize": True}
        return base64.b64decode(self.call("Page.printToPDF", printBackground=True, **paper)["data"])


class Browser:
    """A Chromium at the other end of two pipes: messages are JSON, each ends with a zero byte."""

    def __init__(self, into: int, out_of: int) -> None:
        self._into, self._out_of = into, out_of
        self._number, self._rest = 0, b""
        self._waiting: list[dict[str, Any]] = []

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Call a method and wait for what it returns.

        Raises:
            RuntimeError: If the browser refuses, or has ended.
        """
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        message |= {"sessionId": session} if session else {}
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._into, data) :]
        while True:
            answer = self._read()
            if answer.get("id") != self._number:
                self._waiting.append(answer)
            elif "error" in answer:
                raise RuntimeError(f"{method}: {answer['error']['message']}")
            else:
                return answer["result"]

    def events(self, session: str) -> Iterator[dict[str, Any]]:
        """Yield the events of a page, first those that came during calls."""
        while True:
            event = self._waiting.pop(0) if self._waiting else self._read()
            if event.get("sessionId") == session and "method" in event:
                yield event

    def _read(self) -> dict[str, Any]:
        until = time.monotonic() + TIMEOUT_S
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._out_of], [], [], max(0.0, until - time.monotonic()))
            data = os.read(self._out_of, 1 << 16) if ready else b""
            if not data:
                raise RuntimeError(
                    f"The browser {'has gone' if ready else f'said nothing for {TIMEOUT_S:.0f} seconds'}."
                )
            self._rest += data
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)


@contextmanager
def running_browser() -> Iterator[Browser]:
    """Start a headless browser with a new profile; end it afterwards.

    Raises:
        FileNotFoundError: If there is no Chromium.
    """
    binary = find_browser()
    if binary is None:
        raise FileNotFoundError(f"No Chromium found (looked for {', '.join(NAMES)}). Install one, or set CHROMIUM.")
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()
    # Not 3 and 4: the browser expects its ends there, and WIRE puts them there.
    ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (theirs_in, theirs_out)]
    os.close(theirs_in)
    os.close(theirs_out)
    sandbox = (
        ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    )  # Chromium has no sandbox for root
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        wired = [sys.executable, "-I", "-S", "-c", WIRE, *map(str, ends)]
        command = [*wired, binary, *FLAGS, *sandbox, f"--user-data-dir={profile}", "about:blank"]
        nothing = subprocess.DEVNULL
        process = subprocess.Popen(command, pass_fds=ends, stdin=nothing, stdout=nothing, stderr=nothing)
        for end in ends:
            os.close(end)
        browser = Browser(ours_out, ours_in)
        try:
            yield browser
            browser.call("Browser.close")
        finally:
            os.close(ours_out)
            os.close(ours_in)
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def main(argv: list[str] | None = None) -> int:
    """Take the pictures of one page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path, help="an HTML file, such as report.html")
    parser.add_argument("--out", type=Path, default=Path("screenshots"), help="folder for the pictures (screenshots)")
    parser.add_argument("--scripts", action="store_true", help="run the scripts of the page")
    arguments = parser.parse_args(argv)
    if not arguments.page.is_file():
        print(f"{arguments.page} is no file. Expected an HTML file, such as report.html.", file=sys.stderr)
        return 2
    if find_browser() is None:
        print(f"No Chromium found (looked for {', '.join(NAMES)}). Install one, or set CHROMIUM.", file=sys.stderr)
        return 2
    arguments.out.mkdir(parents=True, exist_ok=True)
    with running_browser() as browser:
        for name, (width, height) in WIDTHS.items():
            for scheme in SCHEMES:
                page = Page(browser, width, height, scheme=scheme, scripts=arguments.scripts)
                page.open(arguments.page)
                print(f"{name:7} {scheme:5} {width} wide: the page is {'{} x {}'.format(*page.size())}", end="")
                print(f" | asked for {page.requests or 'nothing'} | {page.complaints or 'no complaints'}")
                (arguments.out / f"{name}_{scheme}.png").write_bytes(page.screenshot())
                (arguments.out / f"{name}_{scheme}_page.png").write_bytes(page.screenshot(whole=True))
                if name == "desktop" and scheme == "light":
                    (arguments.out / "paper.pdf").write_bytes(page.pdf())
    print(f"Pictures: {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
