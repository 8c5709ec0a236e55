"""The image processor against transformers 4.34.0: every number, key, dtype and container."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.golden.comparison import run_post_processing, run_processor
from tests.golden.fingerprints import decompose_all
from tests.golden.processor_cases import (
    POST_PROCESS_CASES,
    PROCESSOR_CASES,
    PostProcessCase,
    ProcessorCase,
    write_panoptic_masks,
)
from tests.golden.storage import read_arrays, read_facts

# Pictures go through Pillow's 8-bit filters, so that they are equal; what remains is the rounding of float32.
TOLERANCE = 1e-6


def of_case(name: str, case: str) -> dict[str, np.ndarray]:
    stored = {key.partition("/")[2]: value for key, value in read_arrays(name).items() if key.startswith(f"{case}/")}
    assert stored
    return stored


@pytest.mark.parametrize("case", PROCESSOR_CASES, ids=lambda case: case.name)
def test_preprocessing(case: ProcessorCase, tmp_path: Path) -> None:
    write_panoptic_masks(tmp_path)
    arrays, facts = run_processor(case, tmp_path)
    assert facts == read_facts("processor")[case.name]
    expected = of_case("processor", case.name)
    actual = decompose_all(arrays)
    assert sorted(actual) == sorted(expected)
    for key, wanted in expected.items():
        np.testing.assert_allclose(actual[key], wanted, rtol=TOLERANCE, atol=TOLERANCE, err_msg=key)


@pytest.mark.filterwarnings("ignore:.*post_process.*")
@pytest.mark.parametrize("case", POST_PROCESS_CASES, ids=lambda case: case.name)
def test_post_processing(case: PostProcessCase) -> None:
    actual, expected = run_post_processing(case), of_case("post_processing", case.name)
    assert sorted(actual) == sorted(expected)
    for key, wanted in expected.items():
        assert actual[key].dtype == wanted.dtype
        np.testing.assert_allclose(actual[key], wanted, rtol=TOLERANCE, atol=TOLERANCE, err_msg=key)


def test_there_are_enough_cases() -> None:
    assert len(PROCESSOR_CASES) >= 25
