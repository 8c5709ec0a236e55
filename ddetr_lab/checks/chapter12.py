"""The checks of chapter 12: names from names, the first wrong layer, what a model holds, and what fits into it.

Built in chapter 12.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import wraps
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor, nn

from ddetr_lab.authors_checkpoint import rename_state
from ddetr_lab.checks.core import (
    Answer,
    CheckError,
    Mistake,
    Passed,
    check_function,
    generator,
    random_integer,
    same,
)

__all__ = ["bisect", "count", "fit", "rename"]

State = dict[str, Tensor]


def check_states(
    answer: Answer, reference: Answer, cases: Iterable[tuple[State, ...]], mistakes: Sequence[Mistake], name: str
) -> Passed:
    """Check a function of tensors by name. It gets copies, which it may change, and hears which names are wrong.

    Raises:
        CheckError: on the first case with another result.
    """
    if not callable(answer):
        return check_function(answer, reference, cases, mistakes, name=name)
    case: tuple[State, ...] = ()
    got: Any = None

    @wraps(answer)
    def on_copies(*states: State) -> Any:
        nonlocal case, got
        case, got = states, None
        got = answer(*({key: tensor.clone() for key, tensor in state.items()} for state in states))
        return got

    try:
        return check_function(on_copies, reference, cases, mistakes, name=name)
    except CheckError as error:
        if got is None:
            raise
        if not isinstance(got, dict):
            problem, hint = f"{name} returned a {type(got).__name__}, expected a dict.", "return {name: tensor}."
            raise CheckError(problem, hint) from None
        expected = reference(*case)
        if got.keys() == expected.keys():
            raise
        names = _listed("lacks", expected.keys() - got.keys()) + _listed("should not have", got.keys() - expected)
        known = any(same(got, mistake.answer(*case)) for mistake in mistakes)
        hint = error.hint if known else "print the names on both sides, sorted, and follow one that is wrong."
        raise CheckError(f"{name} returned wrong names. The result{' and'.join(names)}.", hint) from None


def require_mask(mask: Tensor, what: str) -> None:
    """Raise unless right numbers are a mask: as an index, integers would pick the rows 0 and 1."""
    if mask.dtype != torch.bool:
        raise CheckError(
            f"{what} is {mask.dtype}, expected torch.bool.",
            "the numbers are right, but as an index 0 and 1 pick the first two rows again and again, where a bool mask "
            "picks those that are True.",
        )


def _listed(what: str, names: Iterable[str]) -> list[str]:
    """Say up to four of the names, or nothing if there are none."""
    names = sorted(names)
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return [f" {what} {', '.join(names[:4])}{more}"] if names else []


def rename(answer: Answer) -> Passed:
    """Check a function from a decoder's tensors under the authors' names to the same under this package's."""

    def reference(state: State) -> State:
        return rename_state(state)

    def replaced(right: State, *pairs: tuple[str, str]) -> State:
        """Exchange parts of names, each pair both ways."""
        renamed = dict(right)
        for one, two in pairs:
            renamed = {
                name.replace(one, "?").replace(two, one).replace("?", two): tensor for name, tensor in renamed.items()
            }
        return renamed

    def in_order(state: State) -> State:
        return replaced(reference(state), ("self_attn_layer_norm", "encoder_attn_layer_norm"))

    def not_told(state: State, *names: str) -> State:
        """Return the right tensors, but with what became of these parts of names still as the authors have it."""
        whole_way = {"encoder_attn.": "cross_attn.", "encoder_attn_layer_norm": "norm1", "final_layer_norm": "norm3"}
        whole_way |= {"self_attn_layer_norm": "norm2", "model.": "transformer."}
        renamed = reference(state)
        for ours in names:
            renamed = {name.replace(ours, whole_way[ours]): tensor for name, tensor in renamed.items()}
        return renamed

    def whole(state: State) -> State:
        own = reference({name: tensor for name, tensor in state.items() if "in_proj_" not in name})
        joint = {name.replace("transformer.", "model."): value for name, value in state.items() if "in_proj_" in name}
        return own | joint

    mistakes = [
        Mistake(
            in_order,
            "norm1 and norm2 are exchanged: the authors do not number a decoder layer's norms in the order of use, and "
            "norm1 is that of the attention to the picture.",
        ),
        Mistake(
            lambda state: replaced(reference(state), ("q_proj", "k_proj")),
            "queries and keys are exchanged: the joint projection holds query, key and value in this order.",
        ),
        Mistake(
            lambda state: replaced(reference(state), ("q_proj", "v_proj")),
            "the joint projection was cut in the order value, key, query: it is query, key, value.",
        ),
        Mistake(lambda state: not_told(state, "encoder_attn."), "cross_attn kept its name: here it is encoder_attn."),
        Mistake(
            lambda state: not_told(state, "encoder_attn_layer_norm", "self_attn_layer_norm", "final_layer_norm"),
            "the norms kept their names: the table says which one norm1, norm2 and norm3 are in a decoder layer.",
        ),
        Mistake(
            lambda state: not_told(state, "model."),
            "the names still begin with transformer: what the authors call so is called model here.",
        ),
        Mistake(whole, "the joint in_proj is still whole: cut it into three along the first axis."),
        Mistake(
            lambda state: {name.removeprefix("model."): value for name, value in reference(state).items()},
            "the first part of each name is missing: what the authors call transformer is called model here.",
        ),
        Mistake(
            lambda state: {
                name.replace("fc1", "linear1").replace("fc2", "linear2"): value
                for name, value in reference(state).items()
            },
            "linear1 and linear2 kept their names: here they are fc1 and fc2.",
        ),
    ]
    rng = generator(121)
    cases = [(_authors_layer(rng, random_integer(rng, 0, 11), random_integer(rng, 2, 5)),) for _ in range(4)]
    return check_states(answer, reference, cases, mistakes, name="rename")


def _authors_layer(rng: torch.Generator, index: int, width: int) -> State:
    """Draw the tensors of one decoder layer as the authors' code names them."""
    prefix, wide = f"transformer.decoder.layers.{index}.", 2 * width
    shapes: dict[str, tuple[int, ...]] = {
        "self_attn.in_proj_weight": (3 * width, width),
        "self_attn.in_proj_bias": (3 * width,),
        "linear1.weight": (wide, width),
        "linear2.weight": (width, wide),
        "linear1.bias": (wide,),
        "linear2.bias": (width,),
    }
    for name in ("self_attn.out_proj", "cross_attn.value_proj", "cross_attn.output_proj"):
        shapes |= {f"{name}.weight": (width, width), f"{name}.bias": (width,)}
    for norm in ("norm1", "norm2", "norm3"):
        shapes |= {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}
    return {prefix + name: torch.randn(shape, generator=rng) for name, shape in shapes.items()}


class _Probe:
    """Says whether layer ``index`` is wrong, and counts how often it was asked."""

    def __init__(self, count: int, first: int) -> None:
        self.count, self.first, self.asked = count, first, 0

    def __call__(self, index: int) -> bool:
        if not 0 <= index < self.count:
            raise IndexError(f"layer {index} was asked for, but there are {self.count}, from 0 on")
        self.asked += 1
        return int(index) >= self.first


def bisect(answer: Answer) -> Passed:
    """Check a search ``answer(is_wrong, count)`` for the first wrong layer, ``count`` if there is none."""

    def halving(is_wrong: _Probe, count: int) -> int:
        low, high = 0, count
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if is_wrong(middle) else (middle + 1, high)
        return low

    mistakes = [
        Mistake(
            lambda *case: (_counted(halving)(*case)[0], torch.tensor(False)),
            "the layer is right, but it took too many questions: ask in the middle, and drop the half that cannot hold "
            "the first wrong one. A thousand layers take about ten questions; up to twice that, and two, are allowed.",
        ),
        Mistake(
            lambda *case: tuple(part.double() for part in _counted(halving)(*case)),
            "the index is right, but not an integer: // halves integers, / makes floats of them.",
        ),
        Mistake(
            _counted(lambda is_wrong, count: -1 if halving(is_wrong, count) == count else halving(is_wrong, count)),
            "where no layer is wrong, -1 came: return count then.",
        ),
        Mistake(
            _counted(lambda is_wrong, count: min(count - 1, halving(is_wrong, count))),
            "where no layer is wrong, the last one was blamed: return count then.",
        ),
        Mistake(
            _counted(lambda is_wrong, count: max(0, halving(is_wrong, count) - 1)),
            "this is the last layer that is right: asked for is the first that is wrong, one further.",
        ),
        Mistake(
            _counted(lambda is_wrong, count: halving(is_wrong, count) + 1),
            "this is one layer too far: when the middle is wrong, it may itself be the first.",
        ),
    ]
    rng = generator(122)
    cases = [(_Probe(count, random_integer(rng, 1, count - 1)), count) for count in (12, 37, 100, 1000)]
    cases += [(_Probe(9, 9), 9), (_Probe(9, 0), 9), (_Probe(1, 0), 1), (_Probe(1, 1), 1)]
    return check_function(
        _counted(answer), _counted(halving), cases, mistakes, name="bisect", parts=("the index", "quickly enough")
    )


def _counted(answer: Answer) -> Answer:
    """Have a search return its index, and whether it asked at most twice as often as halving needs to, and two."""
    if not callable(answer):
        return answer

    @wraps(answer)
    def asked(is_wrong: _Probe, count: int) -> Any:
        is_wrong.asked = 0
        index = answer(is_wrong, count)
        if isinstance(index, Tensor) and index.numel() == 1:
            index = index.item()
        if isinstance(index, bool) or not isinstance(index, Real):
            return index
        quickly = torch.tensor(is_wrong.asked <= 2 * math.ceil(math.log2(count + 1)) + 2)
        if isinstance(index, Integral):
            return torch.tensor(int(index)), quickly
        return torch.tensor(float(index), dtype=torch.float64), quickly.double()

    return asked


def count(answer: Answer) -> Passed:
    """Check a function from a module to three counts: numbers in its file, parameters, trained parameters."""

    def numbers(module: nn.Module) -> tuple[int, int, int]:
        distinct = {id(tensor): tensor for tensor in module.state_dict(keep_vars=True).values()}
        stored = sum(tensor.numel() for tensor in distinct.values())
        parameters = [parameter.numel() for parameter in module.parameters()]
        trained = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
        return stored, sum(parameters), trained

    def twice(module: nn.Module) -> tuple[int, int, int]:
        stored = sum(tensor.numel() for tensor in module.state_dict().values())
        return stored, *numbers(module)[1:]

    def all_twice(module: nn.Module) -> tuple[int, int, int]:
        named = list(module.named_parameters(remove_duplicate=False))
        trained = sum(parameter.numel() for _, parameter in named if parameter.requires_grad)
        return twice(module)[0], sum(parameter.numel() for _, parameter in named), trained

    def tensors(module: nn.Module) -> tuple[int, int, int]:
        stored = len({id(tensor) for tensor in module.state_dict(keep_vars=True).values()})
        parameters = list(module.parameters())
        return stored, len(parameters), sum(parameter.requires_grad for parameter in parameters)

    mistakes = [
        Mistake(
            _as_integers(lambda module: (numbers(module)[1], *numbers(module)[1:])),
            "the buffers are missing in the first count: a frozen norm's statistics are in the file too.",
        ),
        Mistake(
            _as_integers(twice),
            "a tensor with two names was counted twice in the first count: the file holds it once. (The tensors of "
            "state_dict() are new objects; with keep_vars=True they are the model's own.)",
        ),
        Mistake(_as_integers(all_twice), "a tensor with two names was counted twice: it is one tensor."),
        Mistake(
            _as_integers(lambda module: (*numbers(module)[:2], numbers(module)[1])),
            "frozen parameters were counted as trained: ask each for requires_grad.",
        ),
        Mistake(
            _as_integers(lambda module: (numbers(module)[0], numbers(module)[0], numbers(module)[2])),
            "buffers were counted as parameters in the second count: module.parameters() has none of them.",
        ),
        Mistake(
            _as_integers(lambda module: (*numbers(module)[:2], numbers(module)[1] - numbers(module)[2])),
            "the third count has the frozen parameters: those that are trained have requires_grad.",
        ),
        Mistake(
            _as_integers(lambda module: tuple(numbers(module)[place] for place in (0, 2, 1))),
            "the second and third are exchanged: first all parameters, then those that are trained.",
        ),
        Mistake(_as_integers(tensors), "these are the numbers of tensors: .numel() says how many numbers one holds."),
    ]
    rng = generator(123)
    cases = [(_tied_module(rng),) for _ in range(4)]
    parts = ("the file's numbers", "the parameters", "the trained ones")
    return check_function(_as_integers(answer), _as_integers(numbers), cases, mistakes, name="count", parts=parts)


def _tied_module(rng: torch.Generator) -> nn.Module:
    """Make a module with a shared layer, buffers, and a part that is frozen."""
    wide, narrow = random_integer(rng, 4, 7), random_integer(rng, 2, 3)
    shared = nn.Linear(wide, wide)
    frozen = nn.Linear(wide, narrow).requires_grad_(False)
    return nn.Sequential(shared, nn.BatchNorm1d(wide), shared, frozen, nn.Linear(narrow, narrow))


def _as_integers(answer: Answer) -> Answer:
    """Take counts as Python integers or as tensors."""
    if not callable(answer):
        return answer

    @wraps(answer)
    def converted(module: nn.Module) -> Any:
        got = answer(module)
        if isinstance(got, (tuple, list)) or (isinstance(got, Tensor) and got.ndim == 1):
            return tuple(torch.as_tensor(number) for number in got)
        return got

    return converted


def fit(answer: Answer) -> Passed:
    """Check a function from a model's and a file's tensors to the model's after loading what fits by name and shape."""

    def reference(own: State, file: State) -> State:
        return {
            name: file[name] if name in file and file[name].shape == tensor.shape else tensor
            for name, tensor in own.items()
        }

    def reshaped(own: State, file: State) -> State:
        return {
            name: file[name].reshape(tensor.shape) if name in file and file[name].numel() == tensor.numel() else tensor
            for name, tensor in own.items()
        }

    def by_order(own: State, file: State) -> State:
        fitted = {}
        for (name, tensor), other in zip(own.items(), [*file.values(), *own.values()], strict=False):
            fitted[name] = other if other.shape == tensor.shape else tensor
        return fitted

    mistakes = [
        Mistake(
            reshaped,
            "a tensor of another shape was pressed into the model's because it has as many numbers: a transposed "
            "weight then loads as rubbish. Compare the shapes.",
        ),
        Mistake(
            lambda own, file: own | file,
            "everything of the file was taken, also what the model lacks and what has another shape.",
        ),
        Mistake(
            lambda own, file: {name: file.get(name, tensor) for name, tensor in own.items()},
            "tensors of another shape were taken as they are: the model keeps its own there.",
        ),
        Mistake(
            lambda own, file: {name: value for name, value in reference(own, file).items() if name in file},
            "what the file lacks is missing in the result: the model keeps its own tensor there.",
        ),
        Mistake(
            lambda own, file: {name: file[name] for name in own if reference(own, file)[name] is file.get(name)},
            "only what was loaded is in the result: where the file has nothing that fits, the model keeps its own.",
        ),
        Mistake(by_order, "tensors were taken by their place in the file: go by their names."),
        Mistake(lambda own, file: dict(own), "nothing was loaded: take the file's tensor where name and shape agree."),
    ]
    rng = generator(124)
    cases = [(_state(rng, "abcdef"), _state(rng, "fbcgea", turn="c", widen="e")) for _ in range(3)]
    return check_states(answer, reference, cases, mistakes, name="fit")


def _state(rng: torch.Generator, names: str, turn: str = "", widen: str = "") -> State:
    """Draw tensors (2, 3) by name; those in ``turn`` are transposed, those in ``widen`` have a row more."""
    shapes = {name: (3, 2) if name in turn else (3, 3) if name in widen else (2, 3) for name in names}
    return {f"{name}.weight": torch.randn(shape, generator=rng) for name, shape in shapes.items()}
