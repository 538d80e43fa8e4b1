"""The book, built from stored results and opened once in a real browser for all tests."""

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from filelock import FileLock
from playwright.sync_api import ConsoleMessage, Page, sync_playwright
from playwright.sync_api import TimeoutError as NotShown

from hsc_utils.files import ROOT

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WIDTHS = (1400, 768, 400)  # pixels: a desktop, a tablet, a phone
# The rules that axe-core finds broken. What it reports besides would take most of the time, and the
# lists of contents at both sides are the same on each page.
AXE = """([rules, aside]) => axe.run({exclude: aside}, {
  preload: false, resultTypes: ['violations'], ...(rules.length && {runOnly: rules}),
}).then(found => found.violations)"""
SIDES = [".bd-sidebar-primary", ".bd-sidebar-secondary"]
# Where a page is wider than the window, the elements that stick out of it and scroll in no box.
MEASURE = """() => {
  const wide = document.documentElement.scrollWidth - innerWidth;
  const boxed = element => {
    for (let box = element.parentElement; box && box !== document.body; box = box.parentElement)
      if (getComputedStyle(box).overflowX !== 'visible') return true;
    return false;
  };
  const sticks = element => element.getBoundingClientRect().right > innerWidth + 1;
  const name = element => `${element.tagName.toLowerCase()}.${element.className}`;
  const elements = wide > 0 ? [...document.querySelectorAll('main *')] : [];
  const pictures = [...document.querySelectorAll('article img')].map(img => ({
    src: img.getAttribute('src'), natural: img.naturalWidth, width: img.clientWidth,
    filter: getComputedStyle(img).filter, background: getComputedStyle(img).backgroundColor,
  }));
  return {wide, pictures, out: elements.filter(e => sticks(e) && !boxed(e)).map(name).slice(0, 5)};
}"""
# Scripts that watch the size of something run when the page is next drawn.
DRAWN = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
READ = """() => ({
  links: [...document.querySelectorAll('a[href]')].map(link => link.href),
  anchors: [...document.querySelectorAll('[id], a[name]')].map(e => e.id || e.name),
  pictures: [...document.querySelectorAll('img')].map(i => [i.getAttribute('src'), i.alt]),
})"""


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        """Say nothing of each request."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder on this machine alone, and yield its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


def axe(page: Page, name: str, *rules: str) -> list[dict]:
    """Return the findings of axe-core on an open page, of all rules unless some are named."""
    aside = [] if name == "index.html" else SIDES
    return [
        {
            "rule": found["id"],
            "impact": found["impact"],
            "at": [node["target"][0] for node in found["nodes"]],
            "why": found["nodes"][0]["failureSummary"],
        }
        for found in page.evaluate(AXE, [rules, aside])
    ]


def _errors(message: ConsoleMessage) -> list[str]:
    return [f"{message.text} ({message.location['url']})"] if message.type == "error" else []


def visit(page: Page, address: str, name: str) -> dict:
    """Open a page of the book at three widths, light and dark, and note all that the tests ask."""
    noted = {"errors": [], "requests": []}
    page.on("console", lambda message: noted["errors"].extend(_errors(message)))
    page.on("pageerror", lambda error: noted["errors"].append(str(error)))
    page.on("request", lambda request: noted["requests"].append(request.url))
    page.set_viewport_size({"width": WIDTHS[0], "height": 900})
    page.goto(f"{address}{name}", wait_until="load")
    # a colour that is still fading from light to dark has no contrast to measure
    page.add_style_tag(content="* { transition: none !important; animation: none !important }")
    page.evaluate(AXE_SCRIPT)
    page.evaluate("document.querySelectorAll('img').forEach(image => image.loading = 'eager')")
    noted |= page.evaluate(READ) | {"axe": {"light": axe(page, name)}, "measured": {}}
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        noted["measured"][width] = page.evaluate(MEASURE)
    page.evaluate(DRAWN)
    noted["axe"]["phone"] = axe(page, name, "scrollable-region-focusable")
    page.set_viewport_size({"width": WIDTHS[0], "height": 900})
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    noted["axe"]["dark"] = axe(page, name, "color-contrast")
    noted["dark"] = page.evaluate(MEASURE)["pictures"]
    return noted


def search(page: Page, address: str, words: str) -> list[str]:
    """Return the pages that the book's own search finds."""
    page.goto(f"{address}search.html?q={words}")
    results = page.locator("#search-results li a")
    with suppress(NotShown):  # what is not found in seconds is not found
        results.first.wait_for(timeout=10_000)
    return results.evaluate_all("links => links.map(link => link.href)")


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder that all workers of this run share, and no other run."""
    folder = tmp_path_factory.getbasetemp()
    return folder if worker_id == "master" else folder.parent


@pytest.fixture(scope="session")
def book(shared: Path) -> Path:
    """The demo's book, built from what the repository holds."""
    built = shared / "book"
    with FileLock(shared / "book.lock"):
        if not built.exists():
            command = [sys.executable, ROOT / "workflow" / "build_book.py", "--stored", built]
            made = subprocess.run(command, capture_output=True, text=True, check=False)
            assert not made.returncode, f"The book could not be built: {made.stdout}{made.stderr}"
    return built


@pytest.fixture(scope="session")
def visits(shared: Path, request: pytest.FixtureRequest) -> dict[str, dict]:
    """What a browser found on each page of the book, by the page's name."""
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        pytest.skip(f"needs one of {', '.join(BROWSERS)} on this machine")
    book, kept = request.getfixturevalue("book"), shared / "visits.json"
    with FileLock(shared / "visits.lock"):
        if not kept.exists():
            kept.write_text(json.dumps(visit_all(book, executable)))
    return json.loads(kept.read_text())


def visit_all(book: Path, executable: str) -> dict[str, dict]:
    """Visit every page of a built book in one browser, and search it."""
    paths = [path.relative_to(book) for path in sorted(book.rglob("*.html"))]
    pages = [path.as_posix() for path in paths if not path.parts[0].startswith("_")]
    visited = {}
    with served(book) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable)
        context = browser.new_context(reduced_motion="reduce", color_scheme="light")
        for name in pages:
            page = context.new_page()
            visited[name] = visit(page, address, name)
            page.close()
        visited["search.html"]["found"] = search(context.new_page(), address, "granules")
        browser.close()
    return visited
