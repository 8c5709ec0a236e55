"""Reading tensors from good, damaged and malicious files."""

import argparse
import json
import os
import pickle
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from ddetr_lab.checkpoint_files import (
    contiguous_copy,
    read_pickle,
    read_safetensors,
    read_weights,
    write_safetensors,
)

STATE = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.tensor([1, 2]), "c": torch.tensor([0.5]).half()}


class Code:
    """What a malicious checkpoint does: a function call in the place of a value."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def write_parts(folder: Path, suffix: str) -> Path:
    """Write STATE in two parts with an index, as large checkpoints come."""
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    weight_map = {}
    for number, name in enumerate(STATE):
        part = f"{stem}-{number + 1:05}-of-{len(STATE):05}.{suffix}"
        weight_map[name] = part
        if suffix == "safetensors":
            write_safetensors({name: STATE[name]}, folder / part)
        else:
            torch.save({name: STATE[name]}, folder / part)
    index = folder / f"{stem}.{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return index


def assert_state(state: dict[str, torch.Tensor]) -> None:
    assert set(state) == set(STATE)
    for name, tensor in state.items():
        assert tensor.dtype == STATE[name].dtype and torch.equal(tensor, STATE[name])


def test_safetensors_come_back_with_the_format_that_the_hub_wants(tmp_path: Path) -> None:
    write_safetensors(STATE, tmp_path / "model.safetensors")
    assert_state(read_safetensors(tmp_path / "model.safetensors"))
    assert_state(read_weights(tmp_path))
    with safe_open(tmp_path / "model.safetensors", "pt") as stream:
        assert stream.metadata() == {"format": "pt"}


@pytest.mark.parametrize("zipped", [True, False])
def test_both_kinds_of_torch_files_are_read(zipped: bool, tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    assert_state(read_weights(tmp_path))


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_a_checkpoint_in_parts_is_read(suffix: str, tmp_path: Path) -> None:
    write_parts(tmp_path, suffix)
    assert_state(read_weights(tmp_path))


def test_safetensors_are_preferred_unless_told(tmp_path: Path) -> None:
    write_safetensors(STATE, tmp_path / "model.safetensors")
    torch.save({"other": torch.ones(1)}, tmp_path / "pytorch_model.bin")
    assert set(read_weights(tmp_path)) == set(read_weights(tmp_path, use_safetensors=True)) == set(STATE)
    assert set(read_weights(tmp_path, use_safetensors=False)) == {"other"}
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no model.safetensors or model.safetensors.index.json"):
        read_weights(tmp_path, use_safetensors=True)


@pytest.mark.parametrize("part", ["../model.safetensors", "/etc/passwd", "sub/x.bin", "run.py", 7])
def test_an_index_cannot_name_files_elsewhere(part: object, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": part}}))
    with pytest.raises(ValueError, match="expected a .safetensors or .bin file in the same folder"):
        read_weights(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"weight_map": 3}', pytest.param(100_000 * "[", id="deep")])
def test_a_broken_index_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ValueError, match="is no index of a checkpoint"):
        read_weights(tmp_path)


def test_a_lost_part_and_a_part_of_another_run_are_named(tmp_path: Path) -> None:
    write_parts(tmp_path, "safetensors")
    part = tmp_path / "model-00001-of-00003.safetensors"
    write_safetensors({"stranger": torch.ones(1)}, part)
    with pytest.raises(ValueError, match="lists 1 tensors that no part holds, first a.weight"):
        read_weights(tmp_path)
    part.unlink()
    with pytest.raises(FileNotFoundError, match=r"has no model-00001-of-00003.safetensors"):
        read_weights(tmp_path)


@pytest.mark.parametrize("size", [0, 7, 100, -1])
@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
def test_a_cut_off_file_is_named(size: int, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    if kind == "safetensors":
        write_safetensors(STATE, path)
    else:
        torch.save(STATE, path, _use_new_zipfile_serialization=kind == "zip")
    path.write_bytes(path.read_bytes()[:size])
    reader = read_safetensors if kind == "safetensors" else read_pickle
    with pytest.raises(ValueError, match=rf"^{re.escape(str(path))} \(\d+ bytes\) is no whole"):
        reader(path)


def test_the_stand_in_that_git_leaves_is_explained(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(ValueError, match="git-lfs"):
        read_weights(tmp_path)


def test_any_damage_ends_in_a_named_error_or_in_tensors(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    path = tmp_path / "file"
    torch.save(STATE, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    failures = 0
    for _ in range(150):
        content = bytearray(whole)
        for position in torch.randint(len(content), (4,), generator=generator).tolist():
            content[position] ^= int(torch.randint(1, 256, (1,), generator=generator))
        path.write_bytes(content)
        try:
            read_pickle(path)
        except ValueError:
            failures += 1
    assert failures > 50


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_file_is_named_and_never_run(zipped: bool, tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    path = tmp_path / "pytorch_model.bin"
    torch.save(STATE | {"evil": Code(witness)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"needs code to be read \(posix.mkdir\), which is never run here"):
        read_weights(tmp_path)
    assert not witness.exists()
    torch.load(path, weights_only=False)  # the file does bite where it is let
    assert witness.exists()


def test_a_bare_pickle_is_not_run_either(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Code(tmp_path / "witness"), protocol=2))
    with pytest.raises(ValueError, match="pytorch_model.bin"):
        read_weights(tmp_path)
    assert not (tmp_path / "witness").exists()


def test_a_whole_module_is_refused(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(1, 1), tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"needs code to be read \(torch.nn.modules.linear.Linear\)"):
        read_weights(tmp_path)


def test_options_of_a_training_script_are_read_as_attributes(tmp_path: Path) -> None:
    torch.save({"model": STATE, "args": argparse.Namespace(nheads=8)}, tmp_path / "run.pth")
    assert read_pickle(tmp_path / "run.pth")["args"].nheads == 8


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list, expected a dict from name to tensor"),
        ({1: torch.ones(1)}, "holds a dict, expected a dict from name to tensor"),
        ({"a": torch.ones(1), "epoch": 3}, "has 'epoch', a int, expected tensors only"),
        ({"model": STATE, "epoch": 3}, r"use DeformableDetrForObjectDetection.from_authors\(path\)"),
    ],
)
def test_what_is_no_state_dict_is_named(content: object, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=message):
        read_weights(tmp_path)


def test_a_missing_file_is_a_missing_file(tmp_path: Path) -> None:
    for reader in (read_safetensors, read_pickle):
        with pytest.raises(FileNotFoundError):
            reader(tmp_path / "absent")


def test_a_copy_has_storage_of_its_own_and_the_dtype_of_the_file() -> None:
    large = torch.arange(12.0).view(3, 4)
    copy = contiguous_copy("w", large.t()[1:2], torch.float16)
    assert copy.is_contiguous() and copy.dtype == torch.float16 and copy.untyped_storage().nbytes() == copy.nbytes
    assert torch.equal(copy.float(), large.t()[1:2])
    assert contiguous_copy("n", torch.tensor([70000]), torch.float16).dtype == torch.int64


def test_a_cast_that_would_overflow_is_named() -> None:
    with pytest.raises(ValueError, match=r"w has values beyond the range of torch.float16"):
        contiguous_copy("w", torch.tensor([70000.0]), torch.float16)


def test_a_file_that_cannot_be_written_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="absent"):
        write_safetensors(STATE, tmp_path / "absent" / "model.safetensors")
