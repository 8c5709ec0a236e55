"""Curves show what the files say."""

from __future__ import annotations

import json

import pytest

from ddetr_lab.training.curves import plot_curves, save_curves


@pytest.fixture
def runs(tmp_path):
    for number, name in enumerate(("first", "second"), start=1):
        folder = tmp_path / name
        folder.mkdir()
        lines = [
            {
                "step": step,
                "loss": number * 100 / step,
                "loss_ce": 1.0,
                "loss_bbox": 0.5,
                "loss_giou": 0.7,
                "grad_norm": 3.0,
            }
            for step in range(10, 310, 10)
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "first" / "evaluations.jsonl").write_text(
        '{"step": 100, "ap": 0.2, "ap50": 0.4}\n{"step": 200, "ap": null, "ap50": null}\n'
        '{"step": 300, "ap": 0.3, "ap50": 0.5}\n'
    )
    return [tmp_path / "first", tmp_path / "second"]


def test_one_run_shows_loss_parts_gradients_and_scores(runs):
    figure = plot_curves(runs[0])
    loss, parts, norms, scores = figure.axes
    raw, smooth = loss.lines
    assert list(raw.get_ydata()[:3]) == pytest.approx([10, 5, 100 / 30])
    assert smooth.get_ydata()[1] == pytest.approx(7.5)
    assert [line.get_label() for line in parts.lines] == ["class", "L1", "GIoU"]
    assert list(norms.lines[0].get_ydata()[:2]) == [3.0, 3.0]
    assert [(list(line.get_xdata()), list(line.get_ydata())) for line in scores.lines] == [
        ([100, 300], [0.2, 0.3]),
        ([100, 300], [0.4, 0.5]),
    ]


def test_runs_are_compared_under_their_names(runs):
    figure = plot_curves(runs)
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["first", "second"]
    assert len(figure.axes[1].lines) == 6


def test_the_figure_is_written(runs):
    path = save_curves(runs[0])
    assert path == runs[0] / "curves.png" and path.read_bytes().startswith(b"\x89PNG")


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no metrics.jsonl with a line"):
        plot_curves(tmp_path)
