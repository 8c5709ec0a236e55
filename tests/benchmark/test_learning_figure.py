"""The curves: medians, bands, and who is in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddetr_lab.benchmark.learning_figure import plot_learning, save_learning_figure
from ddetr_lab.benchmark.learning_report import LearningReport
from tests.benchmark.test_learning_report import SETTINGS, a_run

REPORT = LearningReport(
    SETTINGS, tuple(a_run(seed=seed, ap=ap) for seed, ap in enumerate((0.4, 0.6, 0.5))) + (a_run("dense", ap=None),)
)


def test_lines_are_medians_over_seeds_and_bands_their_range() -> None:
    figure = plot_learning(REPORT)
    by_step, by_minute, small, _ = figure.axes
    line, dense = by_step.get_lines()
    np.testing.assert_allclose(line.get_xdata(), [500, 1000])
    np.testing.assert_allclose(line.get_ydata(), [0.1, 0.5])
    np.testing.assert_allclose(by_minute.get_lines()[0].get_xdata(), [2.5, 5.0])
    np.testing.assert_allclose(small.get_lines()[0].get_ydata(), [0.05, 0.25])
    np.testing.assert_allclose(dense.get_ydata(), [0.1, np.nan])
    (band,) = by_step.collections
    assert band.get_paths()[0].vertices[:, 1].max() == pytest.approx(0.6)
    assert [text.get_text() for text in by_step.get_legend().get_texts()] == ["deformable", "dense"]


def test_a_choice_of_contestants_and_an_unknown_one() -> None:
    assert len(plot_learning(REPORT, ["dense"]).axes[0].get_lines()) == 1
    with pytest.raises(ValueError, match="'sparse' has no run in this report, which has deformable, dense"):
        plot_learning(REPORT, ["sparse"])


def test_the_figure_is_written(tmp_path: Path) -> None:
    save_learning_figure(REPORT, tmp_path / "learning.png")
    with Image.open(tmp_path / "learning.png") as picture:
        assert picture.size == (800, 600)
