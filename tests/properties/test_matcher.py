"""What holds for every matching, searched by hypothesis."""

from itertools import permutations

import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from ddetr_lab.matcher import HungarianMatcher

Scene = tuple[dict[str, Tensor], dict[str, Tensor]]
MATCHER = HungarianMatcher(2.0, 5.0, 2.0)


@st.composite
def scenes(draw: st.DrawFn, most_queries: int = 7, most_objects: int = 6) -> Scene:
    """Draw one picture's predictions and targets; float64, so that no two costs tie by rounding."""
    queries = draw(st.integers(1, most_queries))
    objects = draw(st.integers(0, most_objects))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    logits = torch.randn(1, queries, 3, generator=generator, dtype=torch.float64) * 2
    boxes = torch.rand(1, queries + objects, 4, generator=generator, dtype=torch.float64) * 0.5 + 0.2
    classes = torch.randint(0, 3, (objects,), generator=generator)
    outputs = {"logits": logits, "pred_boxes": boxes[:, :queries]}
    return outputs, {"class_labels": classes, "boxes": boxes[0, queries:]}


def match(scene: Scene) -> set[tuple[int, int]]:
    ((queries, objects),) = MATCHER(scene[0], [scene[1]])
    return set(zip(queries.tolist(), objects.tolist(), strict=True))


def costs(scene: Scene) -> Tensor:
    return MATCHER.cost_matrix(scene[0]["logits"][0], scene[0]["pred_boxes"][0], scene[1])


def total(scene: Scene, pairs: set[tuple[int, int]]) -> float:
    matrix = costs(scene)
    return sum(matrix[query, index].item() for query, index in pairs)


@given(scenes())
def test_pairs_are_one_to_one_and_as_many_as_can_be(scene: Scene) -> None:
    pairs = match(scene)
    queries, objects = scene[0]["logits"].shape[1], len(scene[1]["boxes"])
    assert len(pairs) == min(queries, objects)
    assert len({query for query, _ in pairs}) == len({index for _, index in pairs}) == len(pairs)
    assert all(query < queries and index < objects for query, index in pairs)


@given(scenes())
def test_queries_come_in_rising_order(scene: Scene) -> None:
    ((queries, _),) = MATCHER(scene[0], [scene[1]])
    assert (queries.diff() > 0).all()


@given(scenes(most_queries=5, most_objects=5))
@settings(max_examples=50)
def test_no_other_assignment_is_cheaper(scene: Scene) -> None:
    matrix = costs(scene)
    if matrix.shape[0] < matrix.shape[1]:
        matrix = matrix.T
    longer, shorter = matrix.shape
    best = min(
        sum(matrix[row, column].item() for column, row in enumerate(rows))
        for rows in permutations(range(longer), shorter)
    )
    assert abs(total(scene, match(scene)) - best) < 1e-9


@given(scenes())
def test_never_dearer_than_the_greedy_choice(scene: Scene) -> None:
    matrix = costs(scene).clone()
    greedy = 0.0
    for _ in range(min(matrix.shape)):
        place = int(matrix.argmin())
        query, index = divmod(place, matrix.shape[1])
        greedy += matrix[query, index].item()
        matrix[query, :] = matrix[:, index] = float("inf")
    assert total(scene, match(scene)) <= greedy + 1e-9


@given(scenes(), st.randoms(use_true_random=False))
def test_shuffled_targets_keep_their_queries(scene: Scene, random) -> None:
    outputs, wanted = scene
    order = list(range(len(wanted["boxes"])))
    random.shuffle(order)
    shuffled = {name: tensor[order] for name, tensor in wanted.items()}
    assert {(query, order[index]) for query, index in match((outputs, shuffled))} == match(scene)


@given(scenes(), st.randoms(use_true_random=False))
def test_shuffled_queries_keep_their_targets(scene: Scene, random) -> None:
    outputs, wanted = scene
    order = list(range(outputs["logits"].shape[1]))
    random.shuffle(order)
    shuffled = {name: tensor[:, order] for name, tensor in outputs.items()}
    assert {(order[query], index) for query, index in match((shuffled, wanted))} == match(scene)


@given(scenes(), st.floats(0.1, 10))
def test_scaling_all_costs_changes_nothing(scene: Scene, scale: float) -> None:
    ((queries, objects),) = HungarianMatcher(2 * scale, 5 * scale, 2 * scale)(scene[0], [scene[1]])
    assert set(zip(queries.tolist(), objects.tolist(), strict=True)) == match(scene)


@given(scenes())
def test_a_perfect_query_gets_its_object(scene: Scene) -> None:
    outputs, wanted = scene
    assume(len(wanted["boxes"]) > 0)
    boxes = torch.cat((outputs["pred_boxes"], wanted["boxes"][None, :1]), dim=1)
    sure = torch.full((1, 1, 3), -20.0, dtype=torch.float64)
    sure[..., wanted["class_labels"][0]] = 20.0
    better = {"logits": torch.cat((outputs["logits"], sure), dim=1), "pred_boxes": boxes}
    matrix = MATCHER.cost_matrix(better["logits"][0], boxes[0], wanted)
    assert matrix[-1, 0] == matrix[:, 0].min()
    single = {name: tensor[:1] for name, tensor in wanted.items()}
    ((queries, _),) = MATCHER(better, [single])
    assert queries.tolist() == [boxes.shape[1] - 1]
