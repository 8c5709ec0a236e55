"""Chapter 12: the solution of each exercise passes; typical wrong answers fail, each with the intended hint."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ddetr_lab.checks import chapter12
from tests.checks.contract import *  # noqa: F403 (the tests that every chapter's checks pass)

Answer = Callable[..., Any]
State = dict[str, Tensor]
Asked = Callable[[int], bool]

NAMES = {
    "transformer.": "model.",
    "norm1": "encoder_attn_layer_norm",
    "norm2": "self_attn_layer_norm",
    "norm3": "final_layer_norm",
    "cross_attn": "encoder_attn",
    "linear": "fc",
}


def renamed(state: State, letters: str = "qkv", **changes: str) -> State:
    table = NAMES | {key: value for key, value in changes.items() if key != "prefix"}
    table["transformer."] = changes.get("prefix", "model.")
    result: State = {}
    for name, tensor in state.items():
        for theirs, ours in table.items():
            name = name.replace(theirs, ours)
        if "in_proj_" in name and letters:
            for letter, part in zip(letters, tensor.split(len(tensor) // 3), strict=True):
                result[name.replace("in_proj_", f"{letter}_proj.")] = part
        else:
            result[name] = tensor
    return result


def searched(is_wrong: Asked, count: int) -> int:
    right, wrong = -1, count
    while wrong - right > 1:
        middle = (right + wrong) // 2
        if is_wrong(middle):
            wrong = middle
        else:
            right = middle
    return wrong


def one_by_one(is_wrong: Asked, count: int) -> int:
    for index in range(count):
        if is_wrong(index):
            return index
    return count


def counted(module: nn.Module) -> tuple[int, int, int]:
    stored = {tensor.data_ptr(): tensor.numel() for tensor in module.state_dict().values()}
    parameters = list(module.parameters())
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    return sum(stored.values()), sum(p.numel() for p in parameters), sum(p.numel() for p in trained)


def named_parameters(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for _, parameter in module.named_parameters(remove_duplicate=False)]


def of_all_names(module: nn.Module) -> tuple[int, int, int]:
    parameters = named_parameters(module)
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    return sum(t.numel() for t in module.state_dict().values()), sum(p.numel() for p in parameters), trained


def how_many_tensors(module: nn.Module) -> tuple[int, int, int]:
    stored = {tensor.data_ptr() for tensor in module.state_dict().values()}
    parameters = list(module.parameters())
    return len(stored), len(parameters), len([p for p in parameters if p.requires_grad])


def fitted(own: State, file: State) -> State:
    result = dict(own)
    for name in own.keys() & file.keys():
        if own[name].shape == file[name].shape:
            result[name] = file[name]
    return result


def pressed(own: State, file: State) -> State:
    result = dict(own)
    for name in own.keys() & file.keys():
        if own[name].numel() == file[name].numel():
            result[name] = file[name].view(own[name].shape)
    return result


def in_the_files_order(own: State, file: State) -> State:
    pairs = zip(own.items(), file.values(), strict=True)
    return {name: other if other.shape == tensor.shape else tensor for (name, tensor), other in pairs}


RIGHT: list[tuple[Answer, Answer]] = [
    (chapter12.rename, renamed),
    (chapter12.bisect, searched),
    (chapter12.count, counted),
    (chapter12.fit, fitted),
]

WRONG: list[tuple[Answer, Answer, str]] = [
    (
        chapter12.rename,
        lambda s: renamed(s, norm1="self_attn_layer_norm", norm2="encoder_attn_layer_norm"),
        "norm1 is that of the attention to the picture",
    ),
    (chapter12.rename, lambda s: renamed(s, letters="kqv"), "query, key and value in this order"),
    (chapter12.rename, lambda s: renamed(s, letters="vkq"), "it is query, key, value"),
    (chapter12.rename, lambda s: renamed(s, letters=""), "cut it into three"),
    (chapter12.rename, lambda s: renamed(s, prefix=""), "called model here"),
    (chapter12.rename, lambda s: renamed(s, linear="linear"), "here they are fc1 and fc2"),
    (chapter12.rename, lambda s: list(renamed(s)), "name: tensor"),
    (chapter12.bisect, one_by_one, "ask in the middle"),
    (chapter12.bisect, lambda w, n: max(0, searched(w, n) - 1), "the last layer that is right"),
    (chapter12.bisect, lambda w, n: min(n - 1, searched(w, n)), "the last one was blamed"),
    (chapter12.bisect, lambda w, n: searched(w, n) + 1, "one layer too far"),
    (chapter12.bisect, lambda w, n: n if w(n) else 0, "try it on a small input"),
    (chapter12.bisect, lambda w, n: [searched(w, n)], "look at what it returns"),
    (chapter12.count, lambda m: (counted(m)[1], *counted(m)[1:]), "buffers are missing"),
    (
        chapter12.count,
        lambda m: (sum(t.numel() for t in m.state_dict().values()), *counted(m)[1:]),
        "counted twice in the first count",
    ),
    (chapter12.count, of_all_names, "it is one tensor"),
    (chapter12.count, lambda m: (*counted(m)[:2], counted(m)[1]), "frozen parameters"),
    (chapter12.count, how_many_tensors, "numbers of tensors"),
    (chapter12.count, lambda m: counted(m)[:2], "look at what it returns"),
    (chapter12.fit, pressed, "as many numbers"),
    (chapter12.fit, lambda own, file: {**own, **file}, "everything of the file"),
    (chapter12.fit, lambda own, file: {k: file.get(k, v) for k, v in own.items()}, "taken as they are"),
    (
        chapter12.fit,
        lambda own, file: {k: v for k, v in fitted(own, file).items() if k in file},
        "missing in the result",
    ),
    (chapter12.fit, in_the_files_order, "by their place in the file"),
    (chapter12.fit, lambda own, _: dict(own), "nothing was loaded"),
]
