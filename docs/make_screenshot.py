"""Makes `docs/images/gallery.png`: the page over scikit-image's photographs, as it is.

Run from the repository's root, with Chromium and `pip install -e ".[builtin,serve,test]"`:

    python docs/make_screenshot.py
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import socket
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import uvicorn
from PIL import Image
from playwright.sync_api import expect, sync_playwright

from genmm_retriever import GenerativeMMRetriever
from genmm_retriever.serving.demo import photographs
from genmm_retriever.serving.http.app import create_app

OUTPUT = Path(__file__).parent / "images" / "gallery.png"
QUERY = "a man with a camera on a tripod"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SIZE = (1360, 850)


def main() -> None:
    """Build the index, serve it, ask, and save what the browser shows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--index", type=Path, help="over the same photographs; else one is built")
    parser.add_argument("--query", default=QUERY)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        index = options.index
        if index is None:
            index = Path(folder) / "index"
            GenerativeMMRetriever.from_images(photographs(), path=index).close()
        shown = served(index, lambda address: shot(address, options.query))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    Image.open(io.BytesIO(shown)).convert("RGB").save(options.output, optimize=True)
    print(f"{options.output}: {options.output.stat().st_size:,} bytes")


def served(index: Path, use: Callable[[str], bytes]) -> bytes:
    """What `use` gives for the address of a service over the index."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        app = create_app(GenerativeMMRetriever.from_index(index))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            address = f"http://127.0.0.1:{listening.getsockname()[1]}"
            wait_for(f"{address}/readyz")
            return use(address)
        finally:
            server.should_exit = True
            thread.join()


def wait_for(address: str, seconds: float = 120) -> None:
    """Wait until an address answers.

    Raises:
        TimeoutError: If it does not.
    """
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            with urllib.request.urlopen(address):
                return
        except OSError:
            time.sleep(0.2)
    raise TimeoutError(address)


def shot(address: str, query: str) -> bytes:
    """A PNG of the answer to a query, its best result open."""
    browser_file = os.environ.get("GENMM_CHROMIUM") or next(
        filter(None, map(shutil.which, BROWSERS))
    )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=browser_file, args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(
            viewport={"width": SIZE[0], "height": SIZE[1]}, reduced_motion="reduce"
        )
        page.set_default_timeout(60_000)
        page.goto(address)
        # The first answer of a process takes longer than those that follow.
        page.fill("#q", "a photograph")
        page.keyboard.press("Enter")
        page.wait_for_selector(".card:not(.blank)")
        page.fill("#q", query)
        page.keyboard.press("Enter")
        page.locator("#count").filter(has_text=query).wait_for()
        page.wait_for_load_state("networkidle")
        page.click("#explain")
        first = page.locator('[role="treeitem"][aria-level="2"][aria-expanded]').first
        first.locator("> .row > .twist").click()
        page.wait_for_load_state("networkidle")
        page.mouse.move(2, SIZE[1] - 2)
        for picture in page.locator("dialog .row img:visible").all():
            expect(picture).to_have_js_property("complete", True)
        taken = page.screenshot()
        browser.close()
    return taken


if __name__ == "__main__":
    main()
