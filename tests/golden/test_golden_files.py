"""config.json and preprocessor_config.json as transformers 4.34.0 writes them, both ways; and the golden files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ddetr_lab import DeformableDetrConfig, DeformableDetrImageProcessor
from tests.golden.cases import MODEL_CASES
from tests.golden.fingerprints import FULL_SIZE, decompose, largest_difference, summary
from tests.golden.generic_weights import generic_values
from tests.golden.loss_cases import CONFIG_FILES, PROCESSOR_FILES
from tests.golden.storage import DATA, read_arrays, read_facts

KINDS: list[tuple[str, Any, dict[str, dict[str, Any]]]] = [
    ("config.json", DeformableDetrConfig, CONFIG_FILES),
    ("preprocessor_config.json", DeformableDetrImageProcessor, PROCESSOR_FILES),
]
every_file = pytest.mark.parametrize(
    ("file", "kind", "name", "kwargs"),
    [(file, kind, name, kwargs) for file, kind, cases in KINDS for name, kwargs in cases.items()],
    ids=lambda value: value if isinstance(value, str) else "",
)


@every_file
def test_written_files_are_the_references(
    file: str, kind: Any, name: str, kwargs: dict[str, Any], tmp_path: Path
) -> None:
    kind(**kwargs).save_pretrained(tmp_path)
    assert json.loads((tmp_path / file).read_text()) == read_facts("files")[file][name]


@every_file
def test_read_files_mean_the_same(file: str, kind: Any, name: str, kwargs: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / file).write_text(json.dumps(read_facts("files")[file][name]))
    read, made = kind.from_pretrained(tmp_path).to_dict(), kind(**kwargs).to_dict()
    read.pop("_name_or_path", None), made.pop("_name_or_path", None)  # the folder that it came from
    assert read == made


def test_golden_files_are_small() -> None:
    sizes = [file.stat().st_size for file in DATA.iterdir()]
    assert max(sizes) < 2e6
    assert sum(sizes) < 6e6


@pytest.mark.parametrize("case", MODEL_CASES, ids=lambda case: case.name)
def test_golden_numbers_are_generic(case: Any) -> None:
    """Fresh weights would give equal attention weights, which hide an order that is wrong.

    The first layer's are the same for all pictures, hence the second's.
    """
    stored = read_arrays(f"model_{case.name}")
    weights = next(value for key, value in stored.items() if "cross_attentions.1" in key and "print" not in key)
    assert np.unique(weights.round(5)).size > 0.9 * min(weights.size, 1000)
    assert 0.01 < weights.std() < 0.3


def test_fingerprints_see_every_number() -> None:
    values = np.linspace(-1, 1, FULL_SIZE + 1, dtype=np.float32)
    changed = values.copy()
    changed[17] += 1e-3
    before, after = decompose("x", values), decompose("x", changed)
    assert largest_difference(after["x:sample"], before["x:sample"]) == 0
    assert largest_difference(after["x:print"], before["x:print"]) > 1e-5
    assert largest_difference(summary(values[::-1]), summary(values)) > 1e-2  # and their order


def test_difference_of_what_is_not_finite() -> None:
    assert largest_difference(np.array([np.inf, 1.0]), np.array([np.inf, 1.5])) == 0.5
    assert largest_difference(np.array([np.nan]), np.array([1.0])) == np.inf
    assert largest_difference(np.zeros(2), np.zeros(3)) == np.inf


def test_weights_depend_on_name_shape_and_seed() -> None:
    reference = generic_values("fc1.weight", (4, 4), 0)
    assert np.array_equal(reference, generic_values("model.fc1.weight", (4, 4), 0))
    assert not np.array_equal(reference, generic_values("fc2.weight", (4, 4), 0))
    assert not np.array_equal(reference, generic_values("fc1.weight", (4, 4), 1))
    # The first numbers of a stream that no release of numpy may change: stored numbers hang on it.
    np.testing.assert_allclose(reference[0], [0.50869685, -0.391777, -0.716095, 0.11650283], atol=1e-6)
