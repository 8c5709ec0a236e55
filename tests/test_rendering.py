"""Rendered detections: the right pixels coloured, words legible and inside, the input untouched."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from ddetr_lab import rendering
from ddetr_lab.rendering import OKABE_ITO, label_colour, label_names, render_detections, text_colour


def rgb(colour):
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))


def contrast(one, other):
    def luminance(colour):
        channels = np.array(colour) / 255.0
        return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4) @ (
            0.2126,
            0.7152,
            0.0722,
        )

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.fixture
def labels_drawn(monkeypatch):
    """Record the rectangle and the words of each label that is drawn."""
    filled, words = [], []
    rectangle, text = ImageDraw.ImageDraw.rectangle, ImageDraw.ImageDraw.text

    def record_rectangle(self, xy, fill=None, **rest):
        if fill is not None:
            filled.append(xy)
        return rectangle(self, xy, fill=fill, **rest)

    def record_text(self, xy, content, **rest):
        words.append(content)
        return text(self, xy, content, **rest)

    monkeypatch.setattr(ImageDraw.ImageDraw, "rectangle", record_rectangle)
    monkeypatch.setattr(ImageDraw.ImageDraw, "text", record_text)
    return filled, words


def detections(boxes, labels=None, scores=None):
    count = len(boxes)
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor(list(range(count)) if labels is None else labels, dtype=torch.int64),
        "scores": torch.tensor([0.9 - 0.1 * i for i in range(count)] if scores is None else scores),
    }


def test_the_line_is_on_the_box_in_the_labels_colour():
    image = Image.new("RGB", (500, 400), (255, 255, 255))
    rendered = render_detections(image, detections([[100.0, 120.0, 300.0, 280.0]], labels=[4]))
    assert rendered.size == image.size and rendered.mode == "RGB"
    assert rendered.getpixel((101, 200)) == rgb(label_colour(4))
    assert rendered.getpixel((298, 200)) == rgb(label_colour(4))
    assert rendered.getpixel((200, 278)) == rgb(label_colour(4))
    assert rendered.getpixel((200, 200)) == (255, 255, 255)
    assert np.asarray(image).min() == 255, "the input stays as it was"


def test_both_forms_of_detections_give_the_same_picture():
    image = Image.new("RGB", (500, 400), (90, 90, 90))
    tensors = detections([[10.0, 50.0, 90.0, 200.0], [200.0, 60.0, 420.0, 390.0]], labels=[2, 5])
    names = {2: "two", 5: "five"}
    listed = [
        {"label": names[int(label)], "score": float(score), "box": box.tolist()}
        for label, score, box in zip(tensors["labels"], tensors["scores"], tensors["boxes"], strict=True)
    ]
    one, other = (render_detections(image, form, names) for form in (tensors, listed))
    assert np.array_equal(np.asarray(one), np.asarray(other))


@pytest.mark.parametrize("empty", [[], detections([])])
def test_nothing_found_is_the_picture_itself(empty):
    image = Image.effect_noise((500, 320), 60).convert("RGB")
    assert np.array_equal(np.asarray(render_detections(image, empty)), np.asarray(image))


@pytest.mark.parametrize(("size", "expected"), [((160, 130), (480, 390)), ((1, 1), (480, 480)), ((900, 20), (900, 20))])
def test_small_pictures_are_enlarged_by_a_whole_factor(size, expected):
    image = Image.new("L", size)
    assert render_detections(image, detections([[0.0, 0.0, 1.0, 1.0]])).size == expected
    assert render_detections(image, [], scale=1).size == size


def test_boxes_grow_with_the_picture():
    rendered = render_detections(Image.new("RGB", (160, 120)), detections([[40.0, 60.0, 100.0, 100.0]], labels=[1]))
    assert rendered.getpixel((121, 240)) == rgb(label_colour(1))
    assert rendered.getpixel((200, 298)) == rgb(label_colour(1))


def test_the_threshold_and_the_names(labels_drawn):
    image = Image.new("RGB", (500, 400))
    render_detections(image, detections([[10, 50, 60, 90], [200, 60, 300, 200], [90, 90, 95, 99]]), {1: "one"}, 0.75)
    assert labels_drawn[1] == ["0 0.90", "one 0.80"]


def test_labels_stay_inside_and_off_one_another(labels_drawn):
    rng = np.random.default_rng(4)
    corners = rng.uniform(0, [420, 320], (6, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(30, 80, (6, 2))], axis=1)
    boxes[0] = [-30, -20, 40, 30]  # over the corner
    boxes[1] = [460, 370, 560, 480]  # over the opposite one
    boxes[2] = boxes[3]  # twice the same
    render_detections(Image.new("RGB", (500, 400)), detections(boxes.tolist()), {i: "a longer name" for i in range(6)})
    filled = labels_drawn[0]
    assert len(filled) == 6
    for x0, y0, x1, y1 in filled:
        assert x0 >= 0 and y0 >= 0 and x1 < 500 and y1 < 400
    for (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) in itertools.combinations(filled, 2):
        assert min(ax1, bx1) <= max(ax0, bx0) or min(ay1, by1) <= max(ay0, by0), "two labels cover each other"


@pytest.mark.parametrize("box", [[5, 5, 5, 5], [30, 40, 10, 20], [-900, -900, -800, -800], [0, 0, 9999, 9999]])
def test_degenerate_boxes_do_not_crash(box):
    assert render_detections(Image.new("RGB", (500, 400)), detections([[float(side) for side in box]])).size == (
        500,
        400,
    )


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1"])
def test_pictures_of_any_mode(mode):
    assert render_detections(Image.new(mode, (500, 400)), detections([[1.0, 2.0, 50.0, 60.0]])).mode == "RGB"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes": torch.full((2, 4), float("nan"))}, "boxes holds NaN"),
        ({"scores": torch.tensor([0.5])}, r"boxes has shape \(2, 4\) and scores \(1,\)"),
        ({"labels": torch.tensor([1])}, "labels has 1 entries, but there are 2 boxes"),
        ({"boxes": torch.zeros(2, 5)}, r"boxes has shape \(2, 5\)"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        render_detections(Image.new("RGB", (50, 40)), detections([[1, 2, 3, 4], [5, 6, 7, 8]]) | change)
    with pytest.raises(ValueError, match="scale = 0"):
        render_detections(Image.new("RGB", (50, 40)), [], scale=0)


@pytest.mark.parametrize("colour", OKABE_ITO)
def test_text_has_contrast_on_every_colour(colour):
    """4.5 is what the accessibility guidelines (WCAG 2, AA) ask of small text."""
    chosen = {"black": (0, 0, 0), "white": (255, 255, 255)}[text_colour(colour)]
    assert contrast(chosen, rgb(colour)) >= 4.5
    assert contrast(chosen, rgb(colour)) == max(contrast(c, rgb(colour)) for c in ((0, 0, 0), (255, 255, 255)))


def test_strings_have_the_colour_of_their_label_or_of_their_first_appearance():
    assert label_names(["b", "a", "b"], 3, {0: "a", 1: "b"})[1] == [label_colour(1), label_colour(0), label_colour(1)]
    assert label_names(["x", "y", "x"], 3)[1] == [label_colour(0), label_colour(1), label_colour(0)]
    assert label_names(np.array([8, 1]), 2, {1: "one"}) == (["8", "one"], [label_colour(8), label_colour(1)])
    assert rendering.label_colour(7) == rendering.label_colour(0)
