"""`make book-check` lets a good page pass and finds the one defect planted in it; without a browser nothing runs."""

from pathlib import Path

import pytest

from tests.book import book_check
from tests.book.browser import MissingBrowser, chromium, find_browser

GOOD = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>A page</title>
<meta name="viewport" content="width=device-width">
<script>document.documentElement.dataset.theme = matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light'
</script></head><body><main id="here"><p>A page. <a href="#here">Up</a> <a href="https://example.org/">away</a></p>
<span class="math"><mjx-container>x</mjx-container></span>
<img alt="A grey dot." src="data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7">
<svg width="9" height="9"><a href="#here"><rect width="9" height="9"/></a></svg>
<!-- here --></main></body></html>"""
NO_AXE = "window.axe = {run: async () => ({violations: []})}"
AXE = (
    "window.axe = {run: async () => ({violations: [{id: '%s', help: 'no', nodes: "
    "[{target: ['p'], html: '<p class=\"%s\">', any: []}]}]})}"
)

DEFECTS = {
    "script errors": "<script>nowhere()</script>",
    "requests": '<link rel="stylesheet" href="http://127.0.0.1:9/style.css">',
    "formulas": '<span class="math">\\(x\\)</span>',
    "overflow": '<div style="width: 3000px">wide</div>',
    "links": '<a href="#nowhere">lost</a>',
    "alt texts": '<img src="data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7">',
}


def report(folder: Path, body: str, capsys: pytest.CaptureFixture[str], axe: str = NO_AXE) -> tuple[int, str]:
    """The number of complaints about a page with something in its body, and what is printed."""
    try:
        find_browser()
    except MissingBrowser as error:
        pytest.skip(str(error))
    (folder / "page.html").write_text(GOOD.replace("<!-- here -->", body), encoding="utf-8")
    (folder / "axe.js").write_text(axe, encoding="utf-8")
    wrong = book_check.check(folder, folder / "axe.js", ["page"])
    return wrong, capsys.readouterr().out


def test_a_good_page_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong, said = report(tmp_path, "", capsys)
    assert wrong == 0, said
    assert "1 pages in 4 modes: 0 script errors" in said


@pytest.mark.parametrize("kind", DEFECTS)
def test_a_planted_defect_is_found(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong, said = report(tmp_path, DEFECTS[kind], capsys)
    assert wrong >= 1
    assert f"page (1280 light), {kind}:" in said or f"page (390 dark), {kind}:" in said


def test_what_axe_finds_counts_unless_the_theme_wrote_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rule, part = book_check.THEME_FINDINGS[0]
    assert report(tmp_path, "", capsys, AXE % (rule, part))[0] == 0
    assert report(tmp_path, "", capsys, AXE % (rule, "of-the-book"))[0] == len(book_check.MODES)
    assert report(tmp_path, "", capsys, AXE % ("color-contrast", part))[0] == len(book_check.MODES)


def test_a_picture_of_the_page_is_taken(tmp_path: Path) -> None:
    try:
        find_browser()
    except MissingBrowser as error:
        pytest.skip(str(error))
    (tmp_path / "page.html").write_text(GOOD, encoding="utf-8")
    with chromium() as tab:
        tab.open((tmp_path / "page.html").as_uri(), 390, 900, dark=True)
        tab.screenshot(tmp_path / "page.png")
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--only", "nowhere"], "--only nowhere: no page has this in its name, expected one of intro"),
        (["--html", "nowhere"], "--html nowhere: it has no intro.html"),
    ],
)
def test_nothing_to_look_at_is_an_error_not_a_clean_bill(words, told, capsys):
    with pytest.raises(SystemExit) as stopped:
        book_check.main(words)
    assert stopped.value.code == 2
    assert told in capsys.readouterr().err
