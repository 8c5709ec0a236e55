"""Reference points land where they say, as large as they count."""

import numpy as np
import pytest
import torch

from ddetr_lab.decoder_figures import draw_reference_points

PICTURE = np.zeros((40, 80, 3), dtype=np.uint8)


def test_points_are_fractions_of_the_picture() -> None:
    figure = draw_reference_points(PICTURE, torch.tensor([[0.5, 0.5], [0.0, 1.0]]), title="two")
    (points,) = figure.axes[0].collections
    assert np.allclose(points.get_offsets(), [[39.5, 19.5], [-0.5, 39.5]])
    assert figure.axes[0].get_title() == "two"


def test_of_boxes_the_centres_are_drawn() -> None:
    figure = draw_reference_points(PICTURE, [[0.25, 0.5, 0.1, 0.9]])
    assert np.allclose(figure.axes[0].collections[0].get_offsets(), [[19.5, 19.5]])


def test_area_grows_with_strength() -> None:
    figure = draw_reference_points(PICTURE, [[0.1, 0.1], [0.5, 0.5], [0.9, 0.9]], strengths=[0.0, 1.0, 2.0])
    assert figure.axes[0].collections[0].get_sizes().tolist() == [4.0, 74.0, 144.0]
    still = draw_reference_points(PICTURE, [[0.1, 0.1]], strengths=[0.0])
    assert still.axes[0].collections[0].get_sizes().tolist() == [4.0]


def test_a_second_set_joins_the_first() -> None:
    figure = draw_reference_points(PICTURE, [[0.1, 0.1]])
    ax = figure.axes[0]
    assert draw_reference_points(None, [[0.9, 0.9]], marker="*", ax=ax) is figure
    assert len(ax.collections) == 2 and len(ax.get_images()) == 1


@pytest.mark.parametrize(
    ("points", "strengths", "message"),
    [
        ([[0.1, 0.2, 0.3]], None, r"points has shape \(1, 3\)"),
        ([0.1, 0.2], None, r"points has shape \(2,\)"),
        ([[0.1, 0.2]], [1.0, 2.0], r"strengths has shape \(2,\), expected \(1,\)"),
        ([[float("nan"), 0.2]], None, "points holds NaN"),
    ],
)
def test_what_cannot_be_drawn_is_named(points: list[float], strengths: list[float] | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw_reference_points(PICTURE, points, strengths)
