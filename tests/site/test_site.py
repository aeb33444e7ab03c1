"""The documentation site, in a real browser: it renders, fits a phone, links, copies, searches and is accessible.

Needs the extra `docs` and Chromium; `.ci/run` installs both.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urldefrag

import pytest

pytest.importorskip("playwright", reason="the extra `docs` brings what these tests need")
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PAGES = sorted(path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md"))
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PHONE = {"width": 360, "height": 740}

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: `apt-get install chromium`")


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-f", "docs/site/mkdocs.yml", "-d"]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    subprocess.run([*command, str(folder)], cwd=ROOT, check=True, timeout=300, env=environment)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with browser.new_context(permissions=["clipboard-read", "clipboard-write"]) as context:
        yield context.new_page()


def urls(site: str) -> list[str]:
    names = [str(path.with_suffix("")).removesuffix("index").strip("/") for path in PAGES]
    return [f"{site}/{name}/" if name else f"{site}/" for name in names]


def test_every_page_renders_and_loads_nothing_from_elsewhere(site: str, page: Page) -> None:
    problems: list[str] = []
    page.on("console", lambda message: message.type == "error" and problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("response", lambda answer: answer.status < 400 or problems.append(f"{answer.status} {answer.url}"))
    page.on("request", lambda asked: asked.url.startswith((site, "data:")) or problems.append(asked.url))
    for url in urls(site):
        page.goto(url)
        assert page.locator("article h1").is_visible(), url
        images = "[...document.images].filter(image => !image.naturalWidth).map(image => image.src)"
        problems += page.evaluate(images)
    assert problems == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_scrolls_sideways_on_a_phone(site: str, browser: Browser, scheme: Any) -> None:
    with browser.new_context(viewport=PHONE, color_scheme=scheme) as context:
        page = context.new_page()
        wide = {}
        for url in urls(site):
            page.goto(url)
            if (width := page.evaluate("document.documentElement.scrollWidth")) > PHONE["width"]:
                wide[url] = width
        assert wide == {}


def test_every_internal_link_works(site: str, page: Page) -> None:
    links: set[str] = set()
    anchors: dict[str, list[str]] = {}
    for url in urls(site):
        page.goto(url)
        links |= set(page.evaluate("[...document.links].map(link => link.href)"))
        anchors[url] = page.evaluate("[...document.querySelectorAll('[id]')].map(element => element.id)")
    broken = []
    for link in sorted(link for link in links if link.startswith(site)):
        target, anchor = urldefrag(link)
        if target not in anchors or (anchor and unquote(anchor) not in anchors[target]):
            broken.append(link)
    assert broken == []
    assert len(links) > 300


def test_every_code_block_can_be_copied(site: str, page: Page) -> None:
    for url in urls(site):
        page.goto(url)
        blocks = page.locator("article pre > code")
        buttons = page.locator("article .md-code__button[data-md-type=copy], article button.md-clipboard")
        assert buttons.count() == blocks.count(), url
    page.goto(f"{site}/tutorial/")
    block = page.locator("article .highlight", has_text="sealchemy generate-key --env").first
    block.hover()
    block.locator("button").first.click()
    assert page.evaluate("navigator.clipboard.readText()").strip() == "sealchemy generate-key --env"


def test_the_search_finds_an_error_text(site: str, page: Page) -> None:
    page.goto(site)
    page.keyboard.press("/")
    page.keyboard.type("rows were locked", delay=20)
    page.locator(".md-search-result__link[href*=incidents]").first.wait_for(timeout=20_000)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_fault(site: str, browser: Browser, scheme: Any) -> None:
    with browser.new_context(color_scheme=scheme) as context:
        page, axe = context.new_page(), Axe()
        faults: dict[str, list[str]] = {}
        for url in urls(site):
            page.goto(url)
            found = axe.run(page).response["violations"]
            serious = [item for item in found if item["impact"] in {"serious", "critical"}]
            if serious:
                faults[url] = [f"{item['id']}: {item['nodes'][0]['html'][:120]}" for item in serious]
        assert faults == {}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_pages_follow_the_scheme_of_the_system(site: str, browser: Browser, scheme: Any) -> None:
    with browser.new_context(color_scheme=scheme) as context:
        page = context.new_page()
        page.goto(site)
        color = page.evaluate("getComputedStyle(document.body).backgroundColor")
        levels = [int(level) for level in color.removeprefix("rgb(").removesuffix(")").split(",")]
        assert (sum(levels) > 3 * 128) is (scheme == "light"), color


@pytest.mark.parametrize("path", sorted((ROOT / "docs/images").glob("*.svg")), ids=lambda path: path.stem)
def test_a_diagram_has_its_text_inside(path: Path, page: Page) -> None:
    page.goto(path.as_uri())
    outside = """
        const { width, height } = document.documentElement.viewBox.baseVal;
        [...document.querySelectorAll("text")].filter(text => {
            const box = text.getBBox();
            return box.x < 8 || box.y < 0 || box.x + box.width > width - 8 || box.y + box.height > height;
        }).map(text => text.textContent)
    """
    assert page.evaluate(outside) == []
