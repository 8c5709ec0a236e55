"""The map of the chapters, drawn when the book is rendered: a box for each chapter, an arrow for what it needs.

The boxes are those of `_toc.yml`; the arrows are what each chapter's "Before you start" names, without those that
follow from others. The drawing is part of the page, so that its boxes are links and its colours follow light and dark
mode.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from textwrap import wrap

import yaml
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

BOX, GAP = (156, 82), (30, 26)  # width and height of a box; room beside it and above it
MARGIN = 126  # for the captions, left of the boxes
LANE = 7  # between two lines that run side by side
COLUMNS = 5
LINE = 19  # letters that fit into a box


@dataclass(frozen=True)
class Stop:
    """One chapter on the map.

    Attributes:
        number: of the chapter.
        stem: the notebook's name.
        title: as the table of contents has it, without the number.
        minutes: to read it, as it says itself; empty if it does not.
        needs: the chapters that it says one should have read.
    """

    number: int
    stem: str
    title: str
    minutes: str
    needs: frozenset[int]


def needed(text: str, number: int) -> frozenset[int]:
    """Return the earlier chapters that a chapter's "Before you start" paragraph names, by link or by number."""
    found = re.search(r"\*\*Before you start\.\*\*.*?(?=\n\s*\n|\Z)", text, re.S)
    if found is None:
        return frozenset()
    numbers = {int(name) for name in re.findall(r"\]\((\d\d)_\w+\.ipynb\)", found[0])}
    for several in re.findall(r"[Cc]hapters? ((?:\d+(?:, and |, | and )?)+)", found[0]):
        numbers |= {int(each) for each in re.findall(r"\d+", several)}
    return frozenset(each for each in numbers if each < number)


def read_parts(book: Path) -> list[tuple[str, list[Stop]]]:
    """Return the captions of the table of contents with their chapters; a part without chapters is left out."""
    toc = yaml.safe_load((book / "_toc.yml").read_text(encoding="utf-8"))
    parts = []
    for part in toc["parts"]:
        stops = []
        for entry in part["chapters"]:
            path = book / f"{entry['file']}.ipynb"
            if path.is_file():
                cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
                text = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
                number = int(path.stem[:2])
                minutes = re.search(r"\*\*Time\.\*\* (\d+) minutes", text)
                title = re.sub(r"^\d+\. ", "", entry["title"])
                stops.append(Stop(number, path.stem, title, minutes[1] if minutes else "", needed(text, number)))
        if stops:
            parts.append((part["caption"], stops))
    return parts


def reduced(needs: Mapping[int, frozenset[int]]) -> dict[int, list[int]]:
    """Return what each chapter needs, without what its other needs need already."""
    all_needs: dict[int, set[int]] = {}
    for number in sorted(needs):
        all_needs[number] = set(needs[number]).union(*(all_needs.get(each, set()) for each in needs[number]))
    return {
        number: sorted(each for each in needs[number] if not any(each in all_needs.get(n, ()) for n in needs[number]))
        for number in sorted(needs)
    }


@dataclass(frozen=True)
class Spot:
    """Where a chapter stands: its row from the top, and its column."""

    row: int
    column: int


@dataclass
class Way:
    """One arrow: level to the next box, else by lanes between rows, and down a gutter if rows lie between.

    Attributes:
        start: what is needed.
        end: by which chapter.
        lanes: for each gap between rows that it runs along, which line there is its own.
        gutter: which line of the gutter left of its end's column, if it needs one.
    """

    start: int
    end: int
    lanes: dict[int, int]
    gutter: int | None = None


def place(parts: Sequence[tuple[str, Sequence[Stop]]]) -> dict[int, Spot]:
    """Return where each chapter stands: parts below each other, long ones in several rows."""
    spots, row = {}, 0
    for _, stops in parts:
        for index, stop in enumerate(stops):
            spots[stop.number] = Spot(row + index // COLUMNS, index % COLUMNS)
        row += (len(stops) - 1) // COLUMNS + 1
    return spots


def route(arrows: Mapping[int, Sequence[int]], spots: Mapping[int, Spot]) -> list[Way]:
    """Return the arrows with lanes of their own, the short ones nearest to the boxes above."""
    ways = [Way(start, end, {}) for end, needs in arrows.items() for start in needs]
    used: Counter[tuple[str, int]] = Counter()
    for way in sorted(ways, key=lambda each: (spots[each.end].row - spots[each.start].row, each.end)):
        start, end = spots[way.start], spots[way.end]
        if start.row == end.row and end.column == start.column + 1:
            continue
        gaps = [end.row] if end.row <= start.row + 1 else [start.row + 1, end.row]
        for gap in gaps:
            way.lanes[gap] = used["gap", gap]
            used["gap", gap] += 1
        if len(gaps) == 2:
            way.gutter = used["gutter", end.column]
            used["gutter", end.column] += 1
    return ways


def tops(rows: int, ways: Sequence[Way]) -> list[int]:
    """Return the upper rim of each row, and below them the height of all: a gap has room for its lanes."""
    rims, y = [], 0
    for row in range(rows):
        lanes = max((way.lanes[row] + 1 for way in ways if row in way.lanes), default=0)
        y += (GAP[1] + LANE * lanes) if row or lanes else 0
        rims.append(y)
        y += BOX[1]
    return [*rims, y]


def ports(ways: Sequence[Way], spots: Mapping[int, Spot]) -> dict[tuple[int, int], tuple[float, float]]:
    """Return for each (start, end) by lanes how far along its boxes' rims it leaves and arrives, in 0 to 1."""
    rims: dict[tuple[int, str], list[Way]] = {}
    for way in ways:
        if way.lanes:
            level = spots[way.start].row == spots[way.end].row
            rims.setdefault((way.start, "top" if level else "bottom"), []).append(way)
            rims.setdefault((way.end, "top"), []).append(way)
    shares: dict[tuple[int, int], list[float]] = {(way.start, way.end): [0.5, 0.5] for way in ways}
    for (number, _), several in rims.items():
        for index, way in enumerate(sorted(several, key=lambda each: -max(each.lanes.values()))):
            share = (index + 1) / (len(several) + 1)
            shares[way.start, way.end][0 if number == way.start else 1] = share
    return {pair: (leaves, arrives) for pair, (leaves, arrives) in shares.items()}


def path(way: Way, spots: Mapping[int, Spot], rims: Sequence[int], shares: tuple[float, float]) -> tuple[str, str]:
    """Return an arrow's line and its head as SVG paths."""
    (width, height), start, end = BOX, spots[way.start], spots[way.end]
    left = {spot: MARGIN + spot.column * (width + GAP[0]) for spot in (start, end)}
    if not way.lanes:
        x, y = left[end], rims[end.row] + height // 2
        return f"M{left[start] + width},{y} H{x - 7}", f"M{x},{y} l-8,-4 v8 z"
    x0, x1 = (left[spot] + round(width * share) for spot, share in zip((start, end), shares, strict=True))
    lane = {gap: rims[gap] - GAP[1] // 2 - 6 - LANE * which for gap, which in way.lanes.items()}
    line = f"M{x0},{rims[start.row] + (0 if start.row == end.row else height)}"
    if way.gutter is not None:
        line += f" V{lane[start.row + 1]} H{left[end] - 6 - LANE * way.gutter}"
    return f"{line} V{lane[end.row]} H{x1} V{rims[end.row] - 7}", f"M{x1},{rims[end.row]} l-4,-8 h8 z"


def draw(parts: Sequence[tuple[str, Sequence[Stop]]], address: Mapping[str, str]) -> str:
    """Return the map as HTML.

    Args:
        parts: from `read_parts`.
        address: of each chapter's page, by the notebook's name.
    """
    stops = {stop.number: stop for _, part in parts for stop in part}
    colour = {stop.number: index % 5 for index, (_, part) in enumerate(parts) for stop in part}
    spots = place(parts)
    arrows = reduced({number: stop.needs & stops.keys() for number, stop in stops.items()})
    ways = route(arrows, spots)
    rims = tops(1 + max(spot.row for spot in spots.values()), ways)
    shares = ports(ways, spots)
    width = MARGIN + COLUMNS * (BOX[0] + GAP[0]) - GAP[0]
    said = "; ".join(f"{n} needs {' and '.join(map(str, needs))}" for n, needs in arrows.items() if needs)
    lines = [
        '<div class="chapter-map" tabindex="0" role="region" aria-label="Map of the chapters">',
        f'<svg viewBox="-2 -2 {width + 4} {rims[-1] + 4}" role="group" aria-labelledby="chapter-map-said">',
        f'<title id="chapter-map-said">Map of the chapters with an arrow from what each needs: {said}.</title>',
    ]
    for way in ways:
        line, head = path(way, spots, rims, shares[way.start, way.end])
        lines.append(f'<path class="way part-{colour[way.end]}" d="{line}"/>')
        lines.append(f'<path class="tip part-{colour[way.end]}" d="{head}"/>')
    for caption, part in parts:
        for index, text in enumerate(wrap(caption, 12)):
            y = rims[spots[part[0].number].row] + 27 + 18 * index
            lines.append(f'<text class="part" x="0" y="{y}">{escape(text)}</text>')
    for number, stop in stops.items():
        x, y = MARGIN + spots[number].column * (BOX[0] + GAP[0]), rims[spots[number].row]
        lines.append(f'<a class="stop part-{colour[number]}" href="{escape(address[stop.stem])}">')
        lines.append(f'<rect x="{x}" y="{y}" width="{BOX[0]}" height="{BOX[1]}" rx="6"/>')
        for index, text in enumerate(wrap(f"{number}. {stop.title}", LINE, max_lines=3, placeholder=" …")):
            lines.append(f'<text x="{x + 9}" y="{y + 20 + 17 * index}">{escape(text)}</text>')
        if stop.minutes:
            corner = f'x="{x + BOX[0] - 8}" y="{y + BOX[1] - 8}"'
            lines.append(f'<text class="minutes" {corner}>{stop.minutes} min</text>')
        lines.append("</a>")
    caption = "A box is a chapter, and a link to it; an arrow leads from what a chapter needs."
    return "\n".join([*lines, "</svg>", f"<p>{caption}</p>", "</div>"])


class ChapterMap(SphinxDirective):
    """The directive `chapter-map`, without arguments."""

    def run(self) -> list[nodes.Node]:
        """Draw the map of the book that is being rendered."""
        parts = read_parts(Path(self.env.srcdir))
        builder = self.env.app.builder
        stems = [stop.stem for _, stops in parts for stop in stops]
        address = {stem: builder.get_relative_uri(self.env.docname, stem) for stem in stems}
        for stem in stems:
            self.env.note_dependency(str(Path(self.env.srcdir) / f"{stem}.ipynb"))
        return [nodes.raw("", draw(parts, address), format="html")]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.add_directive("chapter-map", ChapterMap)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
