"""The machinery of the checks: each general mistake gets its own hint, and random questions repeat themselves."""

import pickle
import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ddetr_lab.checks import CheckError, Passed, core


def double(x: Tensor) -> Tensor:
    return 2 * x


def cases() -> list[tuple[Tensor]]:
    rng = core.generator(0)
    return [(torch.rand(3, 4, generator=rng),), (torch.rand(5, 4, generator=rng),)]


def in_place(x: Tensor) -> Tensor:
    return x.mul_(2)


def raises(x: Tensor) -> Tensor:
    return x[:, 7]


def stub(x: Tensor) -> Tensor:
    raise NotImplementedError


def nothing(x: Tensor) -> None:
    x * 2


def with_graph(x: Tensor) -> Tensor:
    return 2 * x.requires_grad_() * torch.ones(1)


GENERAL: list[tuple[object, str]] = [
    (3.0, "without calling it"),
    (stub, "replace the line that raises NotImplementedError"),
    (nothing, "end with a return"),
    (raises, r"called as double\(x\)"),
    (in_place, "write into the argument"),
    (lambda x: (2 * x).tolist(), "stay in PyTorch"),
    (lambda x: (2 * x).T, "another order"),
    (lambda x: (2 * x).reshape(2, -1), "another arrangement"),
    (lambda x: 2 * x[0], "print the shape"),
    (lambda x: (2 * x).long(), "positions and scores are floats"),
    (lambda x: 2 * x / torch.zeros(()), "NaN or an infinity"),
    (lambda x: 2 * x[:, [1, 0, 3, 2]], "x and y are exchanged"),
    (lambda x: 5 * x, "2.5 times"),
    (lambda x: 2 * x + 0.5, "off by 0.5"),
    (lambda x: x**2, "0 of 12 numbers"),
    (with_graph, "no_grad"),
]


@pytest.mark.parametrize(("answer", "hint"), GENERAL)
def test_a_general_mistake_gets_its_hint(answer: Callable[..., object], hint: str) -> None:
    with pytest.raises(CheckError) as caught:
        core.check_function(answer, double, cases())
    assert re.search(hint, caught.value.hint), caught.value


def test_a_right_answer_passes_and_says_so() -> None:
    passed = core.check_function(lambda x: x + x, double, cases())
    assert isinstance(passed, Passed)
    assert repr(passed) == str(passed) == "double: correct on 2 random inputs."


def test_rounding_is_no_mistake() -> None:
    core.check_function(lambda x: (2 * x).double() + 1e-7, double, cases())


def test_a_known_mistake_outranks_the_general_hint() -> None:
    mistakes = [core.Mistake(lambda x: 3 * x, "three"), core.Mistake(lambda x: 4 * x, "four")]
    with pytest.raises(CheckError) as caught:
        core.check_function(lambda x: 4 * x, double, cases(), mistakes)
    assert caught.value.hint == "four"


def test_the_message_shows_the_first_wrong_row() -> None:
    def late(x: Tensor) -> Tensor:
        return torch.cat((2 * x[:1], x[1:]))

    with pytest.raises(CheckError, match=r"x of shape \(3, 4\)") as caught:
        core.check_function(late, double, cases())
    row = cases()[0][0][1]
    assert f"got[1]      = [{', '.join(f'{v:.4g}' for v in row.tolist())}]" in caught.value.problem
    assert f"expected[1] = [{', '.join(f'{v:.4g}' for v in (2 * row).tolist())}]" in caught.value.problem


def test_an_error_of_the_answer_stays_the_cause() -> None:
    with pytest.raises(CheckError) as caught:
        core.check_function(raises, double, cases())
    assert isinstance(caught.value.__cause__, IndexError)
    assert "IndexError" in caught.value.problem


@pytest.mark.parametrize(
    ("got", "expected", "problem"),
    [
        (torch.ones(2), (torch.ones(2), torch.ones(2)), "expected 2: a, b"),
        ((torch.ones(2),), (torch.ones(2), torch.ones(2)), "got 1 values"),
        ((torch.ones(2), torch.zeros(2)), (torch.ones(2), torch.ones(2)), "here, b"),
        ({"a": torch.ones(1)}, {"b": torch.ones(1)}, r"the keys \['a'\]"),
        (torch.ones(1), {"b": torch.ones(1)}, "a Tensor, expected a dict"),
        ({"b": torch.zeros(1)}, {"b": torch.ones(1)}, "here, b"),
    ],
)
def test_several_results_are_compared_one_by_one(got: object, expected: object, problem: str) -> None:
    with pytest.raises(CheckError, match=problem):
        core.compare(got, expected, "here", ("a", "b"))
    core.compare(expected, expected, "here", ("a", "b"))


def test_an_error_survives_a_process_border() -> None:
    error = pickle.loads(pickle.dumps(CheckError("wrong.", "look.")))
    assert (error.problem, error.hint, str(error)) == ("wrong.", "look.", "wrong.\nHint: look.")


def test_sizes_are_never_square_and_boxes_lie_inside() -> None:
    rng = core.generator(3)
    for _ in range(200):
        height, width = core.random_size(rng, 10, 14)
        assert height != width and 10 <= height <= 14 and 10 <= width <= 14
        boxes = core.random_boxes_cxcywh(rng, 4)
        assert boxes.shape == (4, 4)
        assert (boxes[:, :2] - boxes[:, 2:] / 2 >= -1e-6).all() and (boxes[:, :2] + boxes[:, 2:] / 2 <= 1 + 1e-6).all()
        assert ((boxes[:, 2] - boxes[:, 3]).abs() > 0.04).all()


def test_a_generator_repeats_itself_and_leaves_the_global_one_alone() -> None:
    before = torch.random.get_rng_state()
    draws = [core.random_integer(core.generator(5), 0, 1000) for _ in range(2)]
    assert draws[0] == draws[1]
    assert torch.equal(before, torch.random.get_rng_state())
