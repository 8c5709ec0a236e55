"""The book renders without a warning, and its pages ask nothing of the network.

One build, as `make book` does it, into a temporary folder; nothing is executed, so it takes some seconds.
"""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.book.extension import extension
from tests.book.test_chapters import toc_files
from tests.conftest import ROOT

# A page loads these by itself; a link that a reader may click is none of them.
LOADING = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "object": "data"}
LOADING_LINKS = {"stylesheet", "preload", "prefetch", "preconnect", "dns-prefetch", "modulepreload", "icon"}
BUILD = ("-W", "-n", "--keep-going", "--all")


class Page(HTMLParser):
    """What a page loads, its pictures' alt texts, and the ids and links in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.alts: list[str] = []
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag in LOADING and LOADING[tag] in values:
            self.loads.append(values[LOADING[tag]])
        if tag == "link" and LOADING_LINKS & set(values.get("rel", "").split()):
            self.loads.append(values.get("href", ""))
        if tag == "img":
            self.alts.append(values.get("alt", ""))
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if "id" in values:
            self.ids.add(values["id"])


def build(out: Path, repository: str = "") -> subprocess.CompletedProcess[str]:
    """Render the book into `out`, as the Makefile does."""
    command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build", "book"]
    command += ["--config", "_config.yml", "--path-output", str(out), *BUILD]
    environment = {**os.environ, "BOOK_REPOSITORY": repository}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of rendered pages."""
    out = tmp_path_factory.mktemp("render")
    result = build(out)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
    return out / "_build" / "html"


@pytest.fixture(scope="module")
def pages(html: Path) -> dict[str, Page]:
    """The parsed pages of the book by name."""
    return {name: Page((html / f"{name}.html").read_text(encoding="utf-8")) for name in toc_files()}


def test_makefile_builds_with_the_same_strictness() -> None:
    assert " ".join(BUILD) in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_index_leads_to_the_first_page(html: Path) -> None:
    assert "intro.html" in (html / "index.html").read_text(encoding="utf-8")


def test_pages_load_nothing_from_elsewhere(pages: dict[str, Page]) -> None:
    for name, page in pages.items():
        assert page.loads, name
        assert [address for address in page.loads if re.match(r"(https?:)?//", address)] == [], name


def test_everything_a_page_loads_is_there(html: Path, pages: dict[str, Page]) -> None:
    for name, page in pages.items():
        files = [address.split("?")[0].split("#")[0] for address in page.loads if not address.startswith("data:")]
        assert [file for file in files if not (html / file).is_file()] == [], name


def test_style_sheets_load_nothing_from_elsewhere(html: Path) -> None:
    sheets = list((html / "_static").rglob("*.css"))
    assert html / "_static" / "book.css" in sheets
    for sheet in sheets:
        text = sheet.read_text(encoding="utf-8")
        assert re.findall(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//[^)\s]*", text) == [], sheet.name


def test_mathjax_is_loaded_once_from_the_folder(html: Path) -> None:
    text = (html / "notation.html").read_text(encoding="utf-8")
    assert re.findall(r'<script[^>]*src="([^"?]*tex-svg[^"?]*)', text) == ["_static/../mathjax/tex-svg.js"]
    assert (html / "mathjax" / "tex-svg.js").stat().st_size > 1_000_000


def test_every_picture_speaks(pages: dict[str, Page]) -> None:
    for name, page in pages.items():
        for alt in page.alts:
            assert alt.endswith(".") and len(alt.split()) >= 5, f"{name}: {alt!r}"


def test_links_inside_the_book_arrive(pages: dict[str, Page]) -> None:
    for name, page in pages.items():
        for link in page.links:
            file, _, anchor = link.partition("#")
            target = file.removesuffix(".html") if file else name
            if target in pages and anchor:
                assert anchor in pages[target].ids, f"{name} links to {link}"


def test_the_reference_describes_every_public_function_and_class(pages: dict[str, Page]) -> None:
    ids = {each for page in pages.values() for each in page.ids}
    modules = extension("ddetr_api").read_modules()
    names = [f"{module.name}.{name}" for module in modules for name in module.described]
    assert len(names) > 200
    assert [name for name in names if name not in ids] == []


def test_the_reference_links_to_chapters_and_chapters_to_it(pages: dict[str, Page]) -> None:
    assert "10_encoder.html" in pages["api_network"].links
    assert any(link.startswith("api_") for name in ("05_sampling", "13_matching") for link in pages[name].links)


def test_the_introduction_shows_the_map(html: Path, pages: dict[str, Page]) -> None:
    text = (html / "intro.html").read_text(encoding="utf-8")
    assert text.count('class="chapter-map"') == 1
    assert all('<a class="stop part-' in text and f'href="{name}.html"' in text for name in pages if name[0].isdigit())


def test_no_repository_button_without_an_address(html: Path) -> None:
    text = (html / "intro.html").read_text(encoding="utf-8")
    assert "btn-source-repository-button" not in text
    assert "launch-buttons" not in text


def test_an_address_brings_buttons(tmp_path: Path) -> None:
    result = build(tmp_path, "https://github.com/owner/name.git")
    assert result.returncode == 0, result.stderr[-2000:]
    text = (tmp_path / "_build" / "html" / "intro.html").read_text(encoding="utf-8")
    assert "https://github.com/owner/name" in text
    assert "btn-source-repository-button" in text


def test_launch_buttons_only_where_they_work() -> None:
    assert extension("ddetr_book").repository_options("") == {}
    assert "launch_buttons" in extension("ddetr_book").repository_options("https://github.com/owner/name/")
    assert "launch_buttons" not in extension("ddetr_book").repository_options("https://git.example.org/owner/name")


@pytest.mark.parametrize("address", ["github.com/owner/name", "git@github.com:owner/name", "https://"])
def test_an_unusable_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="BOOK_REPOSITORY"):
        extension("ddetr_book").repository_options(address)
