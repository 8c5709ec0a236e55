"""The drawn map has every chapter once, in its place, with a link and with what it says it needs."""

import itertools
import re
from xml.etree import ElementTree

import pytest

from tests.book.extension import extension
from tests.book.test_chapters import BOOK, CHAPTERS, toc_pages

chapter_map = extension("ddetr_map")
PARTS = chapter_map.read_parts(BOOK)
STOPS = {stop.number: stop for _, part in PARTS for stop in part}
SVG = "{http://www.w3.org/2000/svg}"


def drawn(parts: list) -> ElementTree.Element:
    """The figure, as XML."""
    html = chapter_map.draw(parts, {stop.stem: f"{stop.stem}.html" for _, part in parts for stop in part})
    return ElementTree.fromstring(html.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))


def boxes(figure: ElementTree.Element) -> dict[str, tuple[float, float, float, float]]:
    """Corners by the page that a box leads to."""
    found = {}
    for link in figure.iter(f"{SVG}a"):
        x, y, width, height = (float(link.find(f"{SVG}rect").attrib[key]) for key in ("x", "y", "width", "height"))
        found[link.attrib["href"]] = (x, y, x + width, y + height)
    return found


@pytest.mark.parametrize(
    ("text", "needs"),
    [
        ("**Before you start.** Chapters 0 and 1, partial derivatives.", {0, 1}),
        ("**Before you start.** Chapters 3, 4, 6, 10, and 11: all parts.", {3, 4, 6, 10, 11}),
        ("**Before you start.** You know masks from [](02_pictures_in.ipynb), and\nchapter 5.", {2, 5}),
        ("**Before you start.** Chapter 6.\n\nLater chapter 7 is named, in another paragraph.", {6}),
        ("**Before you start.** Matching and losses, of chapters 13 and 14, come later.", set()),
        ("Chapter 3 without the heading.", set()),
    ],
)
def test_what_a_chapter_needs_is_read_from_it(text: str, needs: set[int]) -> None:
    assert chapter_map.needed(text, 12) == needs


def test_what_follows_is_not_drawn() -> None:
    needs = {0: set(), 1: {0}, 2: {0, 1}, 3: {0, 2}, 4: {0}}
    assert chapter_map.reduced(needs) == {0: [], 1: [0], 2: [1], 3: [2], 4: [0]}


def test_every_chapter_but_the_first_needs_an_earlier_one() -> None:
    assert [number for number, stop in STOPS.items() if not stop.needs] == [0]


def test_the_map_has_every_chapter_by_its_name() -> None:
    assert [stop.stem for stop in STOPS.values()] == [path.stem for path in CHAPTERS]
    titles = {page["file"]: page.get("title") for page in toc_pages()}
    assert all(titles[stop.stem] == f"{stop.number}. {stop.title}" for stop in STOPS.values())
    assert all(stop.minutes for stop in STOPS.values())


def test_boxes_are_links_and_do_not_overlap() -> None:
    figure = drawn(PARTS)
    found = boxes(figure)
    assert sorted(found) == sorted(f"{path.stem}.html" for path in CHAPTERS)
    for one, other in itertools.combinations(found.values(), 2):
        assert one[2] < other[0] or other[2] < one[0] or one[3] < other[1] or other[3] < one[1]
    width, height = (float(number) for number in figure.find(f"{SVG}svg").attrib["viewBox"].split()[2:])
    assert all(x >= 0 and y >= 0 and right <= width and below <= height for x, y, right, below in found.values())


def test_an_arrow_ends_at_the_rim_of_the_chapter_that_needs() -> None:
    figure = drawn(PARTS)
    rims = boxes(figure)
    tips = [path.attrib["d"] for path in figure.iter(f"{SVG}path") if "tip" in path.attrib["class"]]
    needs = chapter_map.reduced({number: stop.needs for number, stop in STOPS.items()})
    ends = [STOPS[number].stem for number, several in needs.items() for _ in several]
    assert len(tips) == len(ends) >= len(STOPS) - 1
    for tip, stem in zip(tips, ends, strict=True):
        x, y = (float(number) for number in re.match(r"M([\d.]+),([\d.]+)", tip).groups())
        left, top, right, bottom = rims[f"{stem}.html"]
        assert (y == top and left < x < right) or (x == left and top < y < bottom)


def test_no_two_arrows_share_a_lane() -> None:
    spots = chapter_map.place(PARTS)
    ways = chapter_map.route(chapter_map.reduced({number: stop.needs for number, stop in STOPS.items()}), spots)
    lanes = [(gap, lane) for way in ways for gap, lane in way.lanes.items()]
    gutters = [(spots[way.end].column, way.gutter) for way in ways if way.gutter is not None]
    assert len(lanes) == len(set(lanes)) and len(gutters) == len(set(gutters))


def test_the_map_speaks() -> None:
    title = drawn(PARTS).find(f"{SVG}svg/{SVG}title").text
    assert title.startswith("Map of the chapters") and title.endswith(".") and "8 needs 7" in title


def test_a_long_part_takes_two_rows() -> None:
    part = [chapter_map.Stop(number, f"{number:02}_x", "A title", "", frozenset()) for number in range(7)]
    spots = chapter_map.place([("one", part), ("two", [chapter_map.Stop(9, "09_x", "B", "", frozenset({6}))])])
    assert spots[6] == chapter_map.Spot(1, 1) and spots[9] == chapter_map.Spot(2, 0)
