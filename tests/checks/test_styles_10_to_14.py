"""Chapters 10 to 14: right answers in other styles pass; plausible wrong ones fail, with the hint that fits them."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from ddetr_lab.boxes import cxcywh_to_xyxy, generalized_box_iou
from ddetr_lab.checks import CheckError, chapter10, chapter11, chapter12, chapter13, chapter14
from ddetr_lab.encoder import encoder_reference_points
from ddetr_lab.heads import refine_boxes
from ddetr_lab.matcher import focal_class_cost
from tests.checks.contract import test_a_right_answer_passes, test_a_wrong_answer_gets_the_intended_hint  # noqa: F401

Answer = Callable[..., Any]
Shapes = Sequence[tuple[int, int]]
State = dict[str, Tensor]


def cost(shapes: Shapes, C: int, M: int, P: int, F: int, layers: int, by: int = 1, read: int = 5) -> Any:
    S, L = np.prod(np.array(shapes), 1).sum(), len(shapes)  # a numpy integer
    return layers * S * C * (2 * C + 3 * M * L * P // by + read * L * P + 2 * F)


def in_cells(exchanged: bool) -> Answer:
    def answer(shapes: Shapes, ratios: Tensor) -> Tensor:
        sizes = [(w / h, h / w) if exchanged else (w, h) for h, w in shapes for _ in range(h * w)]
        return encoder_reference_points(shapes, ratios) * torch.tensor(sizes)[None, :, None]

    return answer


def step(norm: str, first: bool = True) -> Answer:
    def answer(layer: Any, z: Tensor, e: Tensor, references: Tensor, shapes: Shapes, mask: Tensor) -> Tensor:
        z = z + layer.self_attn(z + e, z, references, shapes, attention_mask=mask)[0]
        z = layer.self_attn_layer_norm(z) if first else z
        return getattr(layer, norm)(z + layer.fc2(layer.fc1(z).relu()))

    return answer


def attention(cut: str = "rows", back: bool = True, power: float = 0.5) -> Answer:
    def answer(c: Tensor, p: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor, heads: int) -> Tensor:
        parts = (c + p) @ w_q.T, (c + p) @ w_k.T, c @ w_v.T
        q, k, v = (
            part.view(len(c), heads, -1).transpose(0, 1) if cut == "rows" else part.view(heads, len(c), -1)
            for part in parts
        )
        heard = (q @ k.transpose(1, 2) / q.shape[-1] ** power).softmax(-1) @ v  # (M, Q, D)
        return (heard.transpose(0, 1) if back else heard).reshape(c.shape)

    return answer


def sizes_as(size: str) -> Answer:
    def answer(offsets: Tensor, references: Tensor) -> Tensor:
        if references.shape[1] == 4:
            return refine_boxes(offsets, references)
        if size == "zero":
            return refine_boxes(offsets, torch.cat((references, torch.zeros_like(references)), 1))
        return torch.cat((refine_boxes(offsets, references)[:, :2], offsets[:, 2:]), 1)

    return answer


def into_a_buffer(offsets: Tensor, references: Tensor) -> Tensor:
    boxes = torch.empty_like(offsets)
    for index, of_layer in enumerate(offsets):
        boxes[index] = refine_boxes(of_layer, references)
        references = boxes[index].detach()
    return boxes


def proposed(mask: Tensor, level: int) -> list[list[float]]:
    columns, rows, side = int(mask[0].sum()), int(mask[:, 0].sum()), 0.05 * 2**level
    boxes = [[(j + 0.5) / columns, (i + 0.5) / rows, side, side] for i in range(rows) for j in range(columns)]
    return [box for box in boxes if all(0.01 < number < 0.99 for number in box)]


def rename_in_place(state: State, norm1: str = "encoder_attn_layer_norm", cross: str = "encoder_attn.") -> State:
    norm2 = "self_attn_layer_norm" if norm1[0] == "e" else "encoder_attn_layer_norm"
    table = {"transformer.": "model.", "cross_attn.": cross, "linear": "fc", "norm1": norm1, "norm2": norm2}
    for name in list(state):
        tensor = state.pop(name)
        for theirs, ours in (table | {"norm3": "final_layer_norm"}).items():
            name = name.replace(theirs, ours)
        joint = "in_proj_" in name
        for letter, part in zip("qkv" if joint else "-", tensor.chunk(3) if joint else [tensor], strict=True):
            state[name.replace("in_proj_", f"{letter}_proj.")] = part
    return state


def rename_after_popping(state: State) -> State:
    joint = {name: state.pop(name) for name in list(state) if "in_proj" in name}
    return rename_in_place({**state, **joint})


def asks_twice(is_wrong: Callable[[int], bool], count: int) -> Any:
    low, high = 0, count - 1
    while low <= high:
        middle = (low + high) // 2
        if not is_wrong(middle):
            low = middle + 1
        elif middle == 0 or not is_wrong(middle - 1):
            return np.int64(middle)
        else:
            high = middle - 1
    return count


def from_the_back(is_wrong: Callable[[int], bool], count: int) -> int:
    return max((index + 1 for index in range(count) if not is_wrong(index)), default=0)


def counts(module: nn.Module, order: str = "spt") -> Tensor:
    found = {"p": sum(p.numel() for p in module.parameters())}
    found["s"] = found["p"] + sum(b.numel() for b in module.buffers())
    found["t"] = sum(p.numel() for p in module.parameters() if p.requires_grad)
    return torch.tensor([found["p"] - found["t"] if letter == "f" else found[letter] for letter in order])


def fit_in_place(own: State, file: State, anything: bool = False) -> State:
    for name in own:
        if name in file and (anything or own[name].shape == file[name].shape):
            own[name] = file[name]
    return own


def updated(own: State, file: State) -> State:
    own.update(file)
    return own


def price(gamma_of: str = "right", negative: float = 0.75) -> Answer:
    def answer(logits: Tensor, labels: Tensor) -> Tensor:
        p = logits[:, labels].sigmoid()
        one, two = (1 - p, p) if gamma_of == "right" else (p, 1 - p)
        return -0.25 * one**2 * p.log() + negative * two**2 * (1 - p).log()

    return answer


def matrix(c: float = 1.0, l1: float = 5.0, giou: float = 2.0, signed: bool = False) -> Answer:
    def answer(logits: Tensor, pred: Tensor, labels: Tensor, boxes: Tensor) -> Tensor:
        apart = pred[:, None] - boxes
        overlap = generalized_box_iou(cxcywh_to_xyxy(pred), cxcywh_to_xyxy(boxes))
        return c * focal_class_cost(logits, labels) + l1 * (apart if signed else apart.abs()).sum(2) - giou * overlap

    return answer


def as_lists(cost: Tensor) -> tuple[list[int], list[int]]:
    rows, columns = linear_sum_assignment(cost)
    return rows.tolist(), columns.tolist()


def each_in_turn(cost: Tensor) -> tuple[Tensor, Tensor]:
    free, queries = cost.clone(), []
    for target in range(min(cost.shape)):
        queries.append(int(free[:, target].argmin()))
        free[queries[-1]] = torch.inf
    order = torch.tensor(queries).argsort()
    return torch.tensor(queries)[order], order


def focal(small: float = 0.0, alpha: float = 0.75, gamma: float = 2.0, reduction: str = "none") -> Answer:
    def answer(logits: Tensor, targets: Tensor, num_boxes: float) -> Tensor:
        right = torch.where(targets == 1, logits.sigmoid(), (-logits).sigmoid())
        if small:
            right = torch.where(targets == 1, logits.sigmoid(), 1 - logits.sigmoid())
            entropy = -(right + small).log()
        else:
            entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction=reduction)
        return (torch.where(targets == 1, 0.25, alpha) * (1 - right) ** gamma * entropy).sum() / num_boxes

    return answer


def slope(logits: Tensor, targets: Tensor, weight: float = 0.75) -> Tensor:
    p = logits.sigmoid()
    one = 0.25 * (1 - p) ** 2 * (2 * p * p.log() + p - 1)
    return torch.where(targets == 1, one, weight * p**2 * (p - 2 * (1 - p) * (1 - p).log()))


def summed(pred: Tensor, boxes: Tensor, queries: Tensor, objects: Tensor, num_boxes: float) -> tuple[Any, Any]:
    l1, giou = 0, 0  # stay numbers where there is no pair
    for query, target in zip(queries.tolist(), objects.tolist(), strict=True):
        one, two = pred[query][None], boxes[target][None]
        l1 += (one - two).abs().sum()
        giou += 1 - generalized_box_iou(cxcywh_to_xyxy(one), cxcywh_to_xyxy(two))[0, 0]
    return l1 / num_boxes, giou / num_boxes


def both_faults(pred: Tensor, boxes: Tensor, queries: Tensor, objects: Tensor, num_boxes: float) -> tuple[Any, Any]:
    one, two = pred[queries], boxes[: len(queries)]
    giou = generalized_box_iou(cxcywh_to_xyxy(one), cxcywh_to_xyxy(two))
    return (one - two).abs().sum() / num_boxes, (1 - giou).sum() / num_boxes


RIGHT: list[tuple[Answer, Answer]] = [
    (chapter10.encoder_cost, cost),
    (chapter11.self_attention, attention()),
    (chapter11.all_layers, into_a_buffer),
    (chapter11.level_proposals, lambda mask, level: torch.tensor(proposed(mask, level)).reshape(-1, 4)),
    (chapter12.rename, rename_in_place),
    (chapter12.rename, rename_after_popping),
    (chapter12.bisect, asks_twice),
    (chapter12.count, counts),
    (chapter12.fit, fit_in_place),
    (chapter13.class_cost, price()),
    (chapter13.cost_matrix, matrix()),
    (chapter13.match, as_lists),
    (chapter13.match, lambda cost: np.stack(linear_sum_assignment(cost))),
    (chapter14.focal_loss, focal()),
    (chapter14.focal_gradient, slope),
    (chapter14.matched_box_losses, summed),
]

WRONG: list[tuple[Answer, Answer, str]] = [
    (
        chapter10.ratios_of,
        lambda m: torch.stack((m[:, 0].sum(1) // m.shape[2], m[:, :, 0].sum(1) // m.shape[1]), 1),
        "//",
    ),
    (chapter10.reference_points, in_cells(False), "count cells"),
    (chapter10.reference_points, in_cells(True), "divided by the height"),
    (chapter10.encoder_cost, lambda *a: float(cost(*a)), "not a whole one"),
    (chapter10.encoder_cost, lambda *a: cost(((1, 1),) * len(a[0]), *a[1:]) // len(a[0]) // a[1], "number of tokens"),
    (chapter10.encoder_cost, lambda *a: cost(*a) // a[1], "channels C are still missing"),
    (chapter10.encoder_cost, lambda *a: cost(*a, read=5 * a[2]), "no factor M"),
    (chapter10.encoder_cost, lambda *a: cost(*a, by=a[2]), "each of the M heads"),
    (chapter10.encoder_step, step("self_attn_layer_norm"), "used twice"),
    (chapter10.encoder_step, step("final_layer_norm", first=False), "not normalised"),
    (chapter11.self_attention, attention(power=1.0), "divided by D itself"),
    (chapter11.self_attention, attention(cut="view", back=False), "mixes queries"),
    (chapter11.self_attention, attention(back=False), "side by side"),
    (chapter11.refine, sizes_as("zero"), "given the size 0"),
    (chapter11.refine, sizes_as("raw"), "not these themselves"),
    (chapter11.all_layers, lambda o, r: tuple(into_a_buffer(o, r)), "torch.stack joins"),
    (chapter11.level_proposals, lambda mask, level: torch.tensor(proposed(mask, level)), "reshape"),
    (
        chapter11.level_proposals,
        lambda mask, level: torch.tensor(proposed(mask, level)).reshape(-1, 4).logit(),
        "inverse sigmoids",
    ),
    (
        chapter11.level_proposals,
        lambda mask, level: torch.tensor(proposed(mask.T, level)).reshape(-1, 4)[:, [1, 0, 2, 3]],
        "column after column",
    ),
    (chapter12.rename, lambda s: rename_in_place(s, norm1="self_attn_layer_norm"), "norm1 and norm2 are exchanged"),
    (chapter12.rename, lambda s: rename_in_place(s, cross="cross_attn."), "here it is encoder_attn"),
    (chapter12.bisect, from_the_back, "too many questions"),
    (chapter12.bisect, lambda w, n: float(asks_twice(w, n)), "not an integer"),
    (chapter12.bisect, lambda w, n: (asks_twice(w, n) + 1) % (n + 1) - 1, "-1 came"),
    (chapter12.count, lambda m: counts(m, "sst"), "buffers were counted"),
    (chapter12.count, lambda m: counts(m, "spf"), "the frozen parameters"),
    (chapter12.count, lambda m: counts(m, "stp"), "exchanged"),
    (chapter12.fit, updated, "everything of the file"),
    (chapter12.fit, lambda own, file: fit_in_place(own, file, anything=True), "keeps its own there"),
    (
        chapter12.fit,
        lambda own, file: {n: t for n, t in file.items() if n in own and own[n].shape == t.shape},
        "only what was loaded",
    ),
    (chapter13.class_cost, price(gamma_of="wrong"), "factors are exchanged"),
    (chapter13.class_cost, price(negative=0.25), "both parts have the weight"),
    (chapter13.cost_matrix, matrix(c=2.0), "as in the paper"),
    (chapter13.cost_matrix, matrix(l1=0.0), "L1 distance is missing"),
    (chapter13.cost_matrix, matrix(giou=0.0), "overlap is missing"),
    (chapter13.cost_matrix, matrix(signed=True), "absolute values"),
    (chapter13.match, each_in_turn, "each target in turn"),
    (chapter13.match, lambda cost: tuple(torch.tensor(part) for part in as_lists(cost)), "dtype=torch.int64"),
    (chapter14.focal_loss, focal(small=1e-8), "stops growing"),
    (chapter14.focal_loss, focal(alpha=0.25), "all entries have the weight 0.25"),
    (chapter14.focal_loss, focal(gamma=1.0), "gamma is 2"),
    (chapter14.focal_loss, focal(reduction="mean"), "reduction="),
    (chapter14.focal_loss, lambda z, t, n: focal()(z, t, t.sum().clamp(min=1)), "number of boxes is handed in"),
    (chapter14.focal_loss, lambda z, t, n: -focal()(z, t, n), "sign is turned"),
    (chapter14.focal_gradient, lambda z, t: slope(z, torch.ones_like(t)), "slope for target 1"),
    (chapter14.focal_gradient, lambda z, t: slope(z, t, weight=0.25), "all entries have the weight 0.25"),
    (chapter14.matched_box_losses, both_faults, "both faults"),
    (chapter14.matched_box_losses, lambda *a: summed(*a)[::-1], "exchanged"),
    (chapter14.matched_box_losses, lambda *a: (summed(*a)[0] / 4, summed(*a)[1]), "their mean"),
]


def test_a_message_about_names_lists_only_those_that_differ() -> None:
    with pytest.raises(CheckError) as caught:
        chapter12.rename(lambda state: {name.replace("fc1", "fc"): t for name, t in rename_in_place(state).items()})
    assert "fc1.weight" in caught.value.problem and "self_attn" not in caught.value.problem
    assert "print the names" in caught.value.hint


def test_a_check_leaves_its_own_dictionaries_alone() -> None:
    for _ in range(2):
        chapter12.fit(fit_in_place)
        with pytest.raises(CheckError):
            chapter12.fit(updated)
