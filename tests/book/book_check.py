"""Look at every rendered page as a reader does: light and dark, on a desk and on a phone, without a network.

`make book-check` renders strictly, then drives Chromium over the pages and counts what is wrong: JavaScript errors,
requests that leave the folder, formulas that MathJax could not set, pages that scroll sideways, what axe-core finds
about accessibility, links and anchors that lead nowhere, pictures without words. Exit status 1 if anything is.
"""

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin, urlparse

from tests.book.browser import MissingBrowser, Tab, chromium, find_browser
from tests.book.test_chapters import toc_files
from tests.book.test_render import build

MODES = [(width, dark) for width in (1280, 390) for dark in (False, True)]
RENDER_LIMIT = 60  # seconds
KINDS = ("script errors", "requests", "formulas", "overflow", "axe", "links", "alt texts")

# What axe finds in the theme's own markup, which the book does not write: (rule, part of the HTML it points to).
THEME_FINDINGS: list[tuple[str, str]] = [
    ("label-content-name-mismatch", "search-button-field"),  # labelled "Search", shows its keys as well
    ("label-content-name-mismatch", "theme-switch-button"),  # labelled "Color mode", shows icons
    ("region", "sidebar-primary-item"),  # the book's name stands outside the navigation's landmark
    ("aria-allowed-role", 'role="doc-biblioentry"'),  # docutils' mark-up of a bibliography, here and below
    ("aria-deprecated-role", 'role="doc-biblioentry"'),
    ("aria-required-children", 'class="citation-list"'),
]

PROBE = """(() => {
  const text = [...document.querySelectorAll('.math')].filter(e => !e.closest('pre, code'));
  const raw = text.filter(e => !e.querySelector('mjx-container')).map(e => e.textContent.trim().slice(0, 60));
  const errors = [...document.querySelectorAll('[data-mml-node="merror"], mjx-merror')];
  const wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  const out = [...document.querySelectorAll('main *')].filter(e => {
    const box = e.getBoundingClientRect();
    if (box.right <= document.documentElement.clientWidth + 1) return false;
    for (let p = e.parentElement; p; p = p.parentElement)
      if (/auto|scroll|hidden/.test(getComputedStyle(p).overflowX) && p.tagName !== 'BODY') return false;
    return true;
  }).map(e => e.outerHTML.slice(0, 90));
  return {
    math: [...raw, ...errors.map(e => 'merror ' + (e.getAttribute('data-mjx-error') || e.textContent).slice(0, 60))],
    overflow: wide > 1 ? [`${wide} pixels too wide: ` + out.slice(0, 3).join(' | ')] : [],
    alts: [...document.querySelectorAll('main img')]
      .filter(e => !(e.getAttribute('alt') || '').trim()).map(e => e.src),
    broken: [...document.images].filter(e => e.complete && !e.naturalWidth).map(e => e.src),
    links: [...document.querySelectorAll('a[href]')].map(e => new URL(e.getAttribute('href'), document.baseURI).href),
    ids: [...document.querySelectorAll('[id]')].map(e => e.id),
    dark: document.documentElement.dataset.theme,
  };
})()"""

# Formulas are left out: MathJax gives them to screen readers as MathML, and axe needs minutes for their thousands of
# paths. A dark page differs from a light one in colours alone, so that their contrast is what is looked at.
AXE = """axe.run({exclude: [['mjx-container']]}, {resultTypes: ['violations'] %s}).then(found =>
  found.violations.flatMap(v => v.nodes.map(n =>
    [v.id, n.target.join(' '), n.html.slice(0, 160), n.any.map(a => a.message).join(' ') || v.help])))"""
CONTRAST_ONLY = ", runOnly: ['color-contrast']"


class MissingAxe(OSError):
    """There is no axe-core here; the message says how to get it."""


def find_axe() -> Path:
    """Return the path of axe.min.js: $AXE, or the file in one of the packages that carry it.

    Raises:
        MissingAxe: if there is none.
    """
    if given := os.environ.get("AXE"):
        if Path(given).is_file():
            return Path(given)
        raise MissingAxe(f"AXE is {given!r}, but there is no such file")
    local = Path("node_modules/axe-core/axe.min.js")
    if local.is_file():
        return local
    for package in ("axe_playwright_python", "axe_core_python"):
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            if (Path(folder) / "axe.min.js").is_file():
                return Path(folder) / "axe.min.js"
    raise MissingAxe(
        "no axe-core to judge accessibility with: npm install --no-save axe-core, or say AXE=/path/to/axe.min.js"
    )


def is_the_themes(rule: str, html: str) -> bool:
    """Whether a finding of axe is on the list of those that the book does not cause."""
    return any(rule == known and part in html for known, part in THEME_FINDINGS)


def look(
    tab: Tab, page: Path, axe: str, width: int, dark: bool, picture: Path | None = None
) -> tuple[dict[str, list[str]], dict[str, Any]]:
    """Open a page in one mode; return what is wrong by kind, and what the probe saw. The picture is taken first."""
    tab.open(page.as_uri(), width, 900, dark)
    seen = tab.run(PROBE)
    if picture:
        tab.screenshot(picture)
    tab.run(axe + "; true")
    found: dict[str, list[str]] = {kind: [] for kind in KINDS}
    found["formulas"] = seen["math"]
    found["overflow"] = seen["overflow"]
    found["alt texts"] = seen["alts"]
    for rule, target, html, text in tab.run(AXE % (CONTRAST_ONLY if dark else "")):
        if not is_the_themes(rule, html):
            found["axe"].append(f"{rule} ({text}) at {target}: {html}")
    for event in tab.events:
        kind, params = event["method"], event["params"]
        if kind == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            found["script errors"].append(str(details.get("exception", details).get("description", details))[:200])
        elif kind == "Runtime.consoleAPICalled" and params["type"] == "error":
            found["script errors"].append(str([part.get("value") for part in params["args"]])[:200])
        elif kind == "Network.requestWillBeSent":
            address = params["request"]["url"]
            if not address.startswith(("file:", "data:", "blob:")):
                found["requests"].append(address[:120])
        elif kind == "Network.loadingFailed" and not params.get("canceled"):
            found["script errors"].append(f"a file does not load: {params.get('errorText')}")
    found["script errors"] += [f"a picture does not load: {source[:120]}" for source in seen["broken"]]
    if seen["dark"] != ("dark" if dark else "light"):
        found["script errors"].append(f"the page is in mode {seen['dark']}")
    return found, seen


def broken_links(seen: dict[Path, dict[str, Any]]) -> Iterator[tuple[Path, str]]:
    """Yield each page and link of it that leads to no file of the book, or to no place of its page."""
    for page, what in seen.items():
        for link in sorted(set(what["links"])):
            address = urlparse(urljoin(page.as_uri(), link))
            if address.scheme != "file":
                continue
            target, anchor = Path(unquote(address.path)), unquote(address.fragment)
            if not target.is_file():
                yield page, f"no file: {link}"
            elif anchor and target in seen and anchor not in seen[target]["ids"]:
                yield page, f"no such place: {target.name}#{anchor}"


def check(html: Path, axe: Path, pages: list[str], pictures: Path | None = None) -> int:
    """Look at pages in every mode, print a table, and return how many things are wrong."""
    files = {name: html / f"{name}.html" for name in [*pages, "genindex", "search"] if (html / f"{name}.html").exists()}
    script, seen, rows = axe.read_text(encoding="utf-8"), {}, []
    with chromium() as tab:
        for name, file in files.items():
            for width, dark in MODES:
                mode = f"{width} {'dark' if dark else 'light'}"
                picture = pictures / f"{name}_{mode.replace(' ', '_')}.png" if pictures else None
                found, seen[file] = look(tab, file, script, width, dark, picture)
                rows.append([name, mode, found])
                for kind in KINDS:  # told at once, so that an interrupted run is worth something
                    for problem in found[kind]:
                        print(f"{name} ({mode}), {kind}: {problem}", flush=True)
    by_name = {file: name for name, file in files.items()}
    for page, problem in broken_links(seen):
        row = next(row for row in rows if row[0] == by_name[page])
        row[2]["links"].append(problem)
        print(f"{row[0]} ({row[1]}), links: {problem}")
    total: Counter[str] = Counter()
    print(f"{'page':32} {'mode':11} " + " ".join(f"{kind:>13}" for kind in KINDS))
    for name, mode, found in rows:
        print(f"{name:32} {mode:11} " + " ".join(f"{len(found[kind]):13}" for kind in KINDS))
        total.update({kind: len(found[kind]) for kind in KINDS})
    print()
    print(f"{len(files)} pages in {len(MODES)} modes: " + ", ".join(f"{total[kind]} {kind}" for kind in KINDS))
    return sum(total.values())


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line: `words`, by default those of the process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--html", type=Path, help="pages that are rendered already; without it they are rendered first")
    parser.add_argument("--pictures", type=Path, help="a folder for a screenshot of each page in each mode")
    parser.add_argument("--only", metavar="TEXT", default="", help="only pages whose name contains TEXT")
    arguments = parser.parse_args(words)
    pages = [name for name in toc_files() if arguments.only in name]
    if not pages:
        parser.error(f"--only {arguments.only}: no page has this in its name, expected one of {', '.join(toc_files())}")
    if arguments.html and (missing := [name for name in pages if not (arguments.html / f"{name}.html").is_file()]):
        parser.error(f"--html {arguments.html}: it has no {missing[0]}.html; say the folder of a finished rendering")
    try:
        find_browser()
        axe = find_axe()
    except (MissingBrowser, MissingAxe) as error:
        print(f"make book-check needs one thing more: {error}")
        return 2
    if arguments.pictures:
        arguments.pictures.mkdir(parents=True, exist_ok=True)
    if arguments.html:
        return 1 if check(arguments.html.resolve(), axe, pages, arguments.pictures) else 0
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        result: subprocess.CompletedProcess[str] = build(Path(folder))
        seconds = time.perf_counter() - start
        if result.returncode:
            print(result.stdout + result.stderr)
            return 1
        print(f"rendered without a warning in {seconds:.0f} s (at most {RENDER_LIMIT})\n")
        wrong = check(Path(folder).resolve() / "_build" / "html", axe, pages, arguments.pictures)
    return 1 if wrong or seconds > RENDER_LIMIT else 0


if __name__ == "__main__":
    sys.exit(main())
