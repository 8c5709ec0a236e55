"""A run's log and scores are looked at together; the looks before training are tested with the faults themselves."""

from types import SimpleNamespace
from typing import Any

from ddetr_lab.diagnosis.verdicts import from_the_run


def run(ap50: float, blind: float, *losses: float) -> Any:
    curve = [{"loss": loss, "grad_norm": 1.0, "loss_ce": 1.0} for loss in losses]
    return SimpleNamespace(curve=curve, result=SimpleNamespace(ap50=ap50), class_blind_ap50=blind)


def test_a_healthy_run_is_left_alone() -> None:
    assert from_the_run(run(0.96, 0.9, 9.0, 5.0, 1.0)) == []


def test_both_sides_are_heard() -> None:
    assert [line.partition("?")[0] for line in from_the_run(run(0.0, 0.9, 9.0, 8.9, 8.8))] == [
        "rate too high",
        "class ids off by one",
    ]
