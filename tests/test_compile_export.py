"""The operator, and the model around it, as one graph: torch.compile(fullgraph=True) and torch.export, on the CPU.

A graph break would be an error here. Most graphs are run by ``aot_eager``, which captures forward and backward and
leaves the operations as they are; one goes through inductor's C++.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ddetr_lab.detector import DeformableDetrForObjectDetection
from ddetr_lab.ops import available_backends, ms_deform_attn
from tests.conftest import compiler_version
from tests.ops.problems import Problem, random_problem, results
from tests.tiny import generic, pictures, tiny_config

pytestmark = [
    # The compiler's own.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
SHAPES = [(5, 7), (3, 4)]
BACKENDS = [name for name in available_backends() if name != "loops"]  # the loops branch on numbers


@pytest.fixture(autouse=True)
def no_graph_of_another_test():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Operator(nn.Module):
    """The operator alone, as torch.export wants it."""

    def __init__(self, backend: str | None = None) -> None:
        super().__init__()
        self.backend = backend

    def forward(self, value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        return ms_deform_attn(value, SHAPES, None, locations, weights, backend=self.backend)


def compiled_results(problem: Problem, operator: Any) -> tuple[Tensor, ...]:
    inputs = [tensor.clone().requires_grad_() for tensor in (problem.value, problem.locations, problem.weights)]
    output = operator(*inputs)
    return output.detach(), *torch.autograd.grad(output, inputs, problem.grad_output)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_operator_compiles_to_one_graph_with_its_gradients(backend: str) -> None:
    problem = random_problem(SHAPES, 2, 9, 3, 8, 2)
    operator = torch.compile(Operator(backend), fullgraph=True, backend="aot_eager")
    for got, expected in zip(compiled_results(problem, operator), results(problem, backend), strict=True):
        torch.testing.assert_close(got, expected)


def test_a_graph_checks_its_call_too() -> None:
    problem = random_problem(SHAPES, 2, 9, 3, 8, 2)
    operator = torch.compile(Operator(), fullgraph=True, backend="eager")
    with pytest.raises(Exception, match=r"value has S = 46 tokens"):
        operator(problem.value[:, 1:], problem.locations, problem.weights)


@pytest.mark.skipif(not compiler_version(), reason="inductor needs a C++ compiler")
def test_the_operator_goes_through_inductor() -> None:
    problem = random_problem(SHAPES, 2, 9, 3, 8, 2, torch.float32)

    def layer(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        return Operator()(value * 2, locations, weights.softmax(-1)).relu()

    with torch.no_grad():
        arguments = (problem.value, problem.locations, problem.weights)
        got = torch.compile(layer, fullgraph=True)(*arguments)
        torch.testing.assert_close(got, layer(*arguments))


@pytest.mark.parametrize("strict", [False, True])
def test_the_operator_is_exported_for_any_batch_and_number_of_queries(strict: bool) -> None:
    problem, other = random_problem(SHAPES, 2, 9, 3, 8, 2), random_problem(SHAPES, 5, 4, 3, 8, 2)
    any_size = torch.export.Dim.DYNAMIC
    program = torch.export.export(
        Operator(),
        (problem.value, problem.locations, problem.weights),
        dynamic_shapes=({0: any_size}, {0: any_size, 1: any_size}, {0: any_size, 1: any_size}),
        strict=strict,
    )
    for one in (problem, other):
        got = program.module()(one.value, one.locations, one.weights)
        torch.testing.assert_close(got, results(one)[0])


def variants() -> dict[str, dict[str, Any]]:
    return {"plain": {}, "two stages": {"with_box_refine": True, "two_stage": True}}


@pytest.mark.parametrize("fields", variants().values(), ids=variants().keys())
def test_the_model_compiles_to_one_graph(fields: dict[str, Any]) -> None:
    model = generic(DeformableDetrForObjectDetection(tiny_config(**fields)))
    with torch.no_grad():
        expected = model(*pictures())
        got = torch.compile(model, fullgraph=True, backend="aot_eager")(*pictures())
    for name in ("logits", "pred_boxes"):
        torch.testing.assert_close(got[name], expected[name])


def test_the_model_s_gradients_come_out_of_one_graph() -> None:
    model = generic(DeformableDetrForObjectDetection(tiny_config()))
    gradients = []
    for run in (model, torch.compile(model, fullgraph=True, backend="aot_eager")):
        model.zero_grad()
        outputs = run(*pictures())
        (outputs.logits.sum() + outputs.pred_boxes.sum()).backward()
        gradients.append({name: one.grad for name, one in model.named_parameters() if one.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and gradients[0]
    for name, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], expected, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("fields", variants().values(), ids=variants().keys())
def test_the_model_is_exported(fields: dict[str, Any], strict: bool) -> None:
    model = generic(DeformableDetrForObjectDetection(tiny_config(**fields)))
    with torch.no_grad():
        program = torch.export.export(model, pictures(), {"return_dict": False}, strict=strict)
        got = program.module()(*pictures(), return_dict=False)
        expected = model(*pictures(), return_dict=False)
    assert len(got) == len(expected)
    for one, other in zip(got[:2], expected[:2], strict=True):
        torch.testing.assert_close(one, other)
