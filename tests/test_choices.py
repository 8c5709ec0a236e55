"""Words to choose from: what is none of them is named."""

import enum

import pytest

from ddetr_lab.choices import Choice


class Fruit(Choice):
    APPLE = "apple"
    PEAR = "pear"


def test_a_choice_is_its_word():
    assert Fruit.PEAR == "pear" and Fruit("apple") is Fruit.APPLE


def test_a_choice_of_another_library_is_understood():
    class Foreign(str, enum.Enum):
        APPLE = "apple"

    assert Fruit(Foreign.APPLE) is Fruit.APPLE


@pytest.mark.parametrize("wrong", ["plum", None, 3])
def test_an_unknown_word_is_named(wrong):
    with pytest.raises(ValueError, match=rf"{wrong!r} is no Fruit: choose one of \['apple', 'pear'\]"):
        Fruit(wrong)
