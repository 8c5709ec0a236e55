"""The runs of the four curves differ in what they say they do."""

from ddetr_lab.diagnosis.bad_curves import CURVES
from ddetr_lab.diagnosis.overfit import overfit_recipe


def test_each_changes_the_settings_that_its_title_names() -> None:
    right = overfit_recipe().optimization
    changed = {name: curve.change(right) for name, curve in CURVES.items()}
    assert changed["well"] == right
    assert changed["low"].learning_rate == right.learning_rate / 100
    assert changed["high"].learning_rate == right.learning_rate * 30
    assert (changed["early"].schedule, changed["early"].drops) == ("step", (0.125,))


def test_a_prepared_run_watches_other_pictures() -> None:
    test = CURVES["low"].prepare()
    assert test.held_out is not None
    assert len(test.held_out["labels"]) == 8
