"""Diagrams: every block and arrow is drawn, arrows touch the rims they join, and mistakes are named."""

import pytest
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from ddetr_lab.diagrams import Block, draw_diagram
from ddetr_lab.visualization import panels

BLOCKS = {
    "picture": Block(0, 0, "picture", "a photograph", group=1),
    "model": Block(1, 0, "model"),
    "boxes": Block(0.5, 1, "boxes", "two\nlines", group=2, width=2),
}


def drawn(figure: Figure, kind: type) -> list:
    return [patch for patch in figure.axes[0].patches if isinstance(patch, kind)]


def test_all_blocks_arrows_and_words_are_drawn() -> None:
    figure = draw_diagram(BLOCKS, [("picture", "model", "pixels"), ("model", "boxes")])
    assert len(drawn(figure, FancyBboxPatch)) == 3 and len(drawn(figure, FancyArrowPatch)) == 2
    words = {text.get_text() for text in figure.axes[0].texts}
    assert words == {"picture", "a photograph", "model", "boxes", "two\nlines", "pixels"}


def test_the_size_follows_from_the_grid() -> None:
    figure = draw_diagram(BLOCKS, width=5.0, row_height=0.8)
    assert figure.get_size_inches().tolist() == [5.0, 1.6]


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        ("picture", "model", ((0.42, 0.0), (0.58, 0.0))),
        ("model", "picture", ((0.58, 0.0), (0.42, 0.0))),
        ("picture", "boxes", ((0.0, 0.31), (0.0, 0.69))),  # straight down, into the wide block below
        ("boxes", "model", ((1.0, 0.69), (1.0, 0.31))),
    ],
)
def test_an_arrow_goes_from_rim_to_rim(start: str, end: str, expected: tuple) -> None:
    (arrow,) = drawn(draw_diagram(BLOCKS, [(start, end)]), FancyArrowPatch)
    tail, head = arrow._posA_posB
    assert tail == pytest.approx(expected[0]) and head == pytest.approx(expected[1])


def test_groups_differ_in_colour_and_no_group_is_white() -> None:
    faces = [patch.get_facecolor() for patch in drawn(draw_diagram(BLOCKS), FancyBboxPatch)]
    assert len(set(faces)) == 3 and faces[1][:3] == (1.0, 1.0, 1.0)


def test_it_draws_on_axes_that_are_given() -> None:
    figure, (left, _) = panels(columns=2)
    assert draw_diagram(BLOCKS, ax=left) is figure
    assert left.patches and not figure.axes[1].patches


def test_an_unknown_block_is_named() -> None:
    with pytest.raises(ValueError, match=r"names \['nowhere'\], expected some of"):
        draw_diagram(BLOCKS, [("picture", "nowhere")])


def test_nothing_to_draw_is_refused() -> None:
    with pytest.raises(ValueError, match="blocks is empty"):
        draw_diagram({})
