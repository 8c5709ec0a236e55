"""Figures: what is drawn where, in which size, and nothing left behind."""

from __future__ import annotations

import base64
import io
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from ddetr_lab import visualization
from ddetr_lab.data.digits import DigitScenes
from ddetr_lab.visualization import (
    draw_attention_heat,
    draw_boxes,
    draw_sampling_points,
    panels,
    show_scene,
    use_book_style,
)


@pytest.fixture
def grey():
    return Image.new("RGB", (60, 40), (120, 120, 120))


@pytest.fixture(autouse=True)
def nothing_left_behind():
    before = dict(matplotlib.rcParams)
    yield
    after = dict(matplotlib.rcParams)
    assert {key for key in before if before[key] != after[key]} == set()
    if "matplotlib.pyplot" in sys.modules:
        assert sys.modules["matplotlib.pyplot"].get_fignums() == []


def rectangles(figure, linewidth=1.6):
    found = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]
    return [patch for patch in found if patch.get_linewidth() == linewidth]


def test_boxes_lie_on_the_pixels_they_name(grey):
    """Pixel 0 spans -0.5 to 0.5 on the axes, so a box from 0 to 60 must span -0.5 to 59.5: the whole picture."""
    figure = draw_boxes(grey, torch.tensor([[0.0, 0.0, 60.0, 40.0], [10.0, 5.0, 30.0, 25.0]]))
    first, second = rectangles(figure)
    assert (*first.get_xy(), first.get_width(), first.get_height()) == (-0.5, -0.5, 60.0, 40.0)
    assert (*second.get_xy(), second.get_width(), second.get_height()) == (9.5, 4.5, 20.0, 20.0)
    axes = figure.axes[0]
    assert axes.get_xlim() == (-0.5, 59.5) and axes.get_ylim() == (39.5, -0.5)


@pytest.mark.parametrize(
    ("labels", "scores", "texts"),
    [
        ([3, 8], None, ["three", "8"]),
        (torch.tensor([3, 8]), torch.tensor([0.5, 0.257]), ["three 0.50", "8 0.26"]),
        (["cat", "dog"], [1.0, 0.0], ["cat 1.00", "dog 0.00"]),
        (None, [0.5, 0.25], ["0.50", "0.25"]),
        (None, None, []),
    ],
)
def test_labels_and_scores_are_written(grey, labels, scores, texts):
    boxes = [[1, 10, 20, 20], [30, 10, 40, 20]]
    figure = draw_boxes(grey, boxes, labels=labels, scores=scores, id2label={3: "three"})
    assert [text.get_text() for text in figure.axes[0].texts] == texts


def test_colours_follow_labels_or_the_caller(grey):
    boxes = [[1, 1, 9, 9]] * 3
    colours = [
        matplotlib.colors.to_hex(patch.get_edgecolor()) for patch in rectangles(draw_boxes(grey, boxes, [0, 4, 7]))
    ]
    assert colours[0] == colours[2] == visualization.label_colour(0).lower() != colours[1]
    figure = draw_boxes(grey, boxes, [0, 4, 7], colours="#ff0000", linestyle="--")
    assert {matplotlib.colors.to_hex(patch.get_edgecolor()) for patch in rectangles(figure)} == {"#ff0000"}
    assert {patch.get_linestyle() for patch in rectangles(figure)} == {"--"}


def test_a_second_set_goes_on_the_same_axes(grey):
    figure, axes = panels(1, 2)
    draw_boxes(grey, [[1, 1, 9, 9]], ax=axes[1])
    same = draw_boxes(None, [[2, 2, 8, 8]], ax=axes[1], colours="#000000")
    assert same is figure and len(axes[1].get_images()) == 1 and len(axes[1].patches) == 4 and not axes[0].patches


@pytest.mark.parametrize("boxes", [[], torch.zeros(0, 4), np.zeros((0, 4))])
def test_no_boxes_is_a_picture(grey, boxes):
    figure = draw_boxes(grey, boxes, labels=[], scores=[])
    assert isinstance(figure, Figure) and not figure.axes[0].patches


def test_pictures_of_every_kind_show_the_same_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    kinds = {
        "pillow": Image.fromarray(pixels),
        "array": pixels,
        "float array": pixels / 255.0,
        "tensor": torch.from_numpy(pixels).permute(2, 0, 1),
        "float tensor": torch.from_numpy(pixels / 255.0).permute(2, 0, 1).requires_grad_(),
    }
    for name, image in kinds.items():
        shown = draw_boxes(image, []).axes[0].get_images()[0].get_array()
        assert np.array_equal(np.asarray(shown), pixels), name
    grey = draw_boxes(pixels[..., 0], []).axes[0].get_images()[0].get_array()
    assert np.array_equal(np.asarray(grey), np.repeat(pixels[..., :1], 3, axis=2))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"boxes_xyxy": [[1, 2, 3]]}, r"boxes_xyxy has shape \(1, 3\), expected \(N, 4\)"),
        ({"boxes_xyxy": [[1, 2, 3, float("nan")]]}, "boxes_xyxy holds NaN"),
        ({"labels": [1, 2]}, "labels has 2 entries, but there are 1 boxes"),
        ({"scores": [0.1, 0.2]}, r"scores has shape \(2,\), but there are 1 boxes"),
        ({"colours": ["#000000"] * 2}, "colours has 2 entries"),
        ({"image": np.zeros((2, 3, 4, 5))}, r"image has shape \(2, 3, 4, 5\)"),
        ({"image": torch.randn(3, 8, 8) * 3}, "undo the normalisation"),
        ({"image": None}, "pass the ax"),
    ],
)
def test_what_does_not_fit_is_named(grey, arguments, message):
    with pytest.raises(ValueError, match=message):
        draw_boxes(**({"image": grey, "boxes_xyxy": [[1, 2, 3, 4]]} | arguments))


def test_a_scene_shows_its_annotation():
    scenes = DigitScenes("val", num_scenes=12)
    index = max(range(12), key=lambda i: len(scenes.annotation(i)["annotations"]))
    picture, annotation = scenes[index]
    figure = show_scene(picture, annotation, scenes.categories, title="a scene")
    drawn = [[*patch.get_xy(), patch.get_width(), patch.get_height()] for patch in rectangles(figure)]
    expected = np.array([entry["bbox"] for entry in annotation["annotations"]]) - [0.5, 0.5, 0, 0]
    assert np.allclose(drawn, expected) and len(drawn) > 3
    labels = [scenes.categories[entry["category_id"]] for entry in annotation["annotations"]]
    assert [text.get_text() for text in figure.axes[0].texts] == labels
    assert figure.axes[0].get_title() == "a scene"
    assert not show_scene(picture, {"annotations": []}).axes[0].patches


def sampling(queries=2, heads=4, levels=3, points=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    locations = torch.rand(queries, heads, levels, points, 2, generator=generator)
    weights = torch.rand(queries, heads, levels * points, generator=generator).softmax(-1)
    return locations, weights.reshape(queries, heads, levels, points)


def test_sampling_points_lie_where_the_operator_reads(grey):
    locations, weights = sampling()
    figure = draw_sampling_points(grey, torch.tensor([[0.5, 0.5], [0.25, 0.1]]), locations, weights)
    *levels, references = figure.axes[0].collections
    assert len(levels) == 3
    for level, drawn in enumerate(levels):
        # A location u is the pixel u * W - 0.5: the centre of pixel 0 is 0.
        expected = locations[:, :, level].reshape(-1, 2).double().numpy() * (60, 40) - 0.5
        assert np.allclose(drawn.get_offsets(), expected)
        share = weights[:, :, level].reshape(-1)
        assert np.array_equal(np.argsort(drawn.get_sizes()), np.argsort(share.numpy()))
    assert np.allclose(references.get_offsets(), [[29.5, 19.5], [14.5, 3.5]])
    names = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert names == ["level 0", "level 1", "level 2", "reference"]


def test_figures_with_one_strongest_weight_compare(grey):
    locations, weights = sampling(queries=1)
    whole, half = (
        draw_sampling_points(grey, [[0.5, 0.5]], locations, part, strongest=1.0).axes[0].collections[0].get_sizes()
        for part in (weights, weights / 2)
    )
    assert np.allclose(whole - 6, 2 * (half - 6))


def test_reference_boxes_are_drawn(grey):
    figure = draw_sampling_points(grey, [[0.5, 0.5, 0.2, 0.5]], *sampling(queries=1))
    (box,) = rectangles(figure, linewidth=1.4)
    assert np.allclose([*box.get_xy(), box.get_width(), box.get_height()], [23.5, 9.5, 12.0, 20.0])


def test_sampling_shapes_are_checked(grey):
    locations, weights = sampling()
    references = torch.rand(2, 2)
    with pytest.raises(ValueError, match=r"reference_points has shape \(2, 3\)"):
        draw_sampling_points(grey, torch.rand(2, 3), locations, weights)
    with pytest.raises(ValueError, match=r"sampling_locations has shape .* one picture"):
        draw_sampling_points(grey, references, locations[None], weights)
    with pytest.raises(ValueError, match=r"weights has shape \(2, 4, 12\)"):
        draw_sampling_points(grey, references, locations, weights.flatten(2))


def test_heat_covers_the_picture_and_is_strongest_where_it_is_most(grey):
    heat = np.zeros((4, 6))
    heat[1, 2] = 5.0
    figure = draw_attention_heat(grey, heat)
    layer = figure.axes[0].get_images()[1]
    assert list(layer.get_extent()) == [-0.5, 59.5, 39.5, -0.5]
    opacity = layer.get_alpha()
    assert opacity.argmax() == 1 * 6 + 2 and opacity.max() == pytest.approx(0.65)
    figure.canvas.draw()
    flat = draw_attention_heat(grey, torch.ones(3, 3))
    assert np.unique(flat.axes[0].get_images()[1].get_alpha()).size == 1
    for bad, message in ((np.zeros(3), "heat has shape"), (np.full((2, 2), np.nan), "heat holds NaN")):
        with pytest.raises(ValueError, match=message):
            draw_attention_heat(grey, bad)
    with pytest.raises(ValueError, match="opacity = 2"):
        draw_attention_heat(grey, heat, opacity=2)


@pytest.mark.parametrize(("rows", "columns", "height", "pixels"), [(1, 2, None, (640, 320)), (2, 1, 3.0, (640, 300))])
def test_a_notebook_gets_a_png_of_the_promised_size(rows, columns, height, pixels, monkeypatch):
    figure, axes = panels(rows, columns, height=height)
    assert axes.shape == (rows * columns,)
    axes[0].set_title("a title that a tight bounding box would make room for\n" * 3)
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda bundle, raw: shown.append(bundle))
    figure._ipython_display_()
    (bundle,) = shown
    with Image.open(io.BytesIO(base64.b64decode(bundle["image/png"]))) as png:
        assert png.size == pixels
    assert bundle["text/plain"] == f"<Figure size {pixels[0]}x{pixels[1]} with 2 Axes>"
    with matplotlib.rc_context({"savefig.bbox": "tight", "savefig.dpi": 33}):
        assert figure.bundle() == bundle


def test_panels_need_a_cell():
    with pytest.raises(ValueError, match="rows = 0"):
        panels(0, 2)


def test_the_style_holds_for_a_block_or_from_a_call_on():
    before = matplotlib.rcParams["image.cmap"]
    with matplotlib.rc_context():
        with use_book_style():
            assert matplotlib.rcParams["image.cmap"] == "cividis"
        assert matplotlib.rcParams["image.cmap"] == before
        use_book_style()
        assert matplotlib.rcParams["image.cmap"] == "cividis"


def test_importing_loads_no_matplotlib():
    code = "import sys, ddetr_lab.visualization, ddetr_lab.evaluation, ddetr_lab.data; " + (
        "print([m for m in ('matplotlib', 'pycocotools', 'sklearn', 'skimage', 'scipy') if m in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"
