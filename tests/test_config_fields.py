"""The rules for single fields."""

import numpy as np
import pytest

from ddetr_lab.config_fields import as_integer, check_choice, check_field


def test_a_field_without_a_rule_passes_through() -> None:
    value = object()
    assert check_field("anything", value) is value


@pytest.mark.parametrize(("given", "plain"), [(np.int32(3), int), (3, int)])
def test_integers_become_plain(given: object, plain: type) -> None:
    assert type(as_integer("n", given, 0)) is plain


def test_bounds_are_inclusive() -> None:
    assert [as_integer("n", value, 1, 3) for value in (1, 3)] == [1, 3]
    for value in (0, 4):
        with pytest.raises(ValueError, match=f"n = {value}, expected 1 to 3"):
            as_integer("n", value, 1, 3)


def test_switching_the_focal_weight_off() -> None:
    assert check_field("focal_alpha", -1) == -1


def test_a_choice_lists_the_others() -> None:
    check_choice("kind", "a", ("a", "b"))
    with pytest.raises(ValueError, match="kind = 'c', expected one of a, b"):
        check_choice("kind", "c", ("a", "b"))
