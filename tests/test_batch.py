"""Batches: access, conversion to tensors, moving."""

import pickle
from collections.abc import Mapping

import numpy as np
import pytest
import torch

from ddetr_lab.batch import BatchFeature


def sample() -> BatchFeature:
    labels = [
        BatchFeature({"boxes": np.full((2, 4), 0.1, dtype=np.float32), "class_labels": np.array([1, 2])}, "pt"),
        BatchFeature({"boxes": np.zeros((0, 4), dtype=np.float32), "class_labels": np.array([], dtype=np.int64)}, "pt"),
    ]
    batch = BatchFeature(
        {"pixel_values": [np.ones((3, 2, 2), dtype=np.float32)] * 2, "pixel_mask": np.ones((2, 2, 2), dtype=np.int64)},
        "pt",
    )
    batch["labels"] = labels
    return batch


def test_values_are_items_and_attributes():
    batch = BatchFeature({"a": 1, "b": [2]})
    assert batch.a == batch["a"] == batch.data["a"] == 1
    assert isinstance(batch, Mapping) and list(batch) == ["a", "b"] and dict(**batch) == {"a": 1, "b": [2]}
    assert BatchFeature() == {}


def test_a_missing_name_is_named():
    batch = BatchFeature({"a": 1})
    with pytest.raises(AttributeError, match=r"no 'pixel_value'; it has \['a'\]"):
        _ = batch.pixel_value
    with pytest.raises(KeyError, match="by name"):
        _ = batch[0]
    assert not hasattr(batch, "pin_memory")


def test_copies_and_pickles_keep_the_class():
    batch = sample()
    for other in (batch.copy(), pickle.loads(pickle.dumps(batch))):
        assert type(other) is BatchFeature and list(other) == list(batch)
        assert torch.equal(other.labels[0].boxes, batch.labels[0].boxes)
    shallow = batch.copy()
    shallow["pixel_mask"] = None
    assert batch.pixel_mask is not None


@pytest.mark.parametrize(("tensor_type", "kind"), [("pt", torch.Tensor), ("np", np.ndarray)])
def test_conversion_stacks_lists_and_keeps_dtypes(tensor_type, kind):
    batch = BatchFeature(
        {
            "x": [np.ones((2, 3), dtype=np.float16)] * 4,
            "size": (5, 6),
            "ready": torch.ones(2),
            "flags": np.array([True]),
        },
        tensor_type,
    )
    assert all(isinstance(value, kind) for value in batch.values())
    assert tuple(batch.x.shape) == (4, 2, 3) and str(batch.x.dtype).endswith("float16")
    assert batch.size.tolist() == [5, 6] and str(batch.size.dtype).endswith("int64")
    assert str(batch.flags.dtype).endswith("bool")


def test_conversion_of_tensors_in_a_list():
    assert BatchFeature({"x": [torch.zeros(2), torch.ones(2)]}, "pt").x.tolist() == [[0, 0], [1, 1]]


def test_none_leaves_everything_alone():
    value = [np.ones(2), np.ones(3)]
    assert BatchFeature({"x": value}).x is value


@pytest.mark.parametrize("tensor_type", ["pt", "np"])
@pytest.mark.parametrize("value", [[np.ones((3, 2, 2)), np.ones((3, 2, 4))], [[1], [1, 2]], object()])
def test_what_is_not_rectangular_is_named(tensor_type, value):
    with pytest.raises(ValueError, match=r"'pixel_values' cannot become one tensor.*do_pad=True"):
        BatchFeature({"pixel_values": value}, tensor_type)


def test_an_unknown_tensor_type_is_named():
    with pytest.raises(ValueError, match=r"'tf' is no TensorType: choose one of \['pt', 'np'\]"):
        BatchFeature({"x": [1]}, "tf")


def test_a_dtype_changes_floats_but_no_targets():
    batch = sample()
    assert batch.to(torch.float16) is batch
    assert batch.pixel_values.dtype == torch.float16
    assert batch.pixel_mask.dtype == torch.int64
    assert batch.labels[0].boxes.dtype == torch.float32, "a box in half precision is a wrong box"


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [(("meta",), {}), ((torch.device("meta"),), {}), ((), {"device": "meta"}), (("meta",), {"non_blocking": True})],
)
def test_a_device_moves_everything(args, kwargs):
    batch = sample().to(*args, **kwargs)
    assert batch.pixel_values.device.type == batch.pixel_mask.device.type == "meta"
    assert [label.boxes.device.type for label in batch.labels] == ["meta", "meta"]
    assert isinstance(batch.labels[0], BatchFeature) and batch.pixel_values.dtype == torch.float32


def test_device_and_dtype_together():
    batch = sample().to("meta", torch.bfloat16)
    assert batch.pixel_values.dtype == torch.bfloat16 and batch.pixel_values.device.type == "meta"
    assert sample().to(dtype=torch.float64).pixel_values.dtype == torch.float64


def test_what_is_no_tensor_stays_but_arrays_are_refused():
    assert BatchFeature({"note": "text", "pair": (1, 2)}).to("cpu") == {"note": "text", "pair": (1, 2)}
    with pytest.raises(TypeError, match=r"'pixel_values\[0\]' is a numpy array.*return_tensors='pt'"):
        BatchFeature({"pixel_values": [np.ones(2)]}).to("cpu")


@pytest.mark.parametrize("wrong", [None, 1.5, [1], True])
def test_to_refuses_what_is_no_device(wrong):
    with pytest.raises(ValueError, match="neither a device nor a torch.dtype"):
        sample().to(wrong)
    with pytest.raises(ValueError, match="memory_format"):
        sample().to("cpu", memory_format=wrong)
