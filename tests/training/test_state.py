"""Run states: what is saved comes back, two are kept, damage is passed over, and nothing in a file is executed."""

from __future__ import annotations

import json
import os
import pickle
import re

import pytest
import torch

from ddetr_lab.training.state import StateFolder


def save(states, number):
    return states.save({"a": torch.full((3, 2), float(number)), "n": torch.tensor(number)}, {"number": number})


@pytest.fixture
def states(tmp_path):
    """A folder with the states 1, 2 and 3, of which 2 and 3 are kept."""
    folder = StateFolder(tmp_path / "state")
    for number in (1, 2, 3):
        save(folder, number)
    return folder


def test_what_is_saved_comes_back(tmp_path):
    tensors = {
        "half": torch.randn(3).to(torch.bfloat16),
        "empty": torch.zeros(0, 4),
        "scalar": torch.tensor(2.5),
        "turned": torch.arange(6.0).view(2, 3).T,
        "bytes": torch.arange(5, dtype=torch.uint8),
    }
    content = {"list": [1, 2.5, None, "ä"], "nested": {"x": {"y": True}}}
    path = StateFolder(tmp_path / "new" / "state").save(tensors, content)
    state = StateFolder(tmp_path / "new" / "state").load()
    assert (state.content, state.path) == (content, path)
    assert state.tensors.keys() == tensors.keys()
    for name, value in tensors.items():
        assert torch.equal(state.tensors[name], value) and state.tensors[name].dtype == value.dtype


def test_the_last_two_are_kept_and_the_newest_is_read(states):
    names = sorted(entry.name for entry in states.folder.iterdir())
    assert names == [f"state-00000{number}.{kind}" for number in (2, 3) for kind in ("json", "safetensors")]
    assert states.load().content == {"number": 3}


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
@pytest.mark.parametrize("damage", ["cut", "bit", "empty", "gone"])
def test_a_damaged_state_is_passed_over_and_named(states, suffix, damage):
    path = states.folder / f"state-000003{suffix}"
    content = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "bit":
        content[len(content) * 2 // 3] ^= 1
        path.write_bytes(content)
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        path.unlink()
    told: list[str] = []
    again = StateFolder(states.folder, told.append)
    assert again.load().content == {"number": 2}
    if (damage, suffix) != ("gone", ".json"):  # without its JSON a state was never there
        assert len(told) == 1 and "state-000003" in told[0] and "Going on from state-000002.json" in told[0]
    # The good one is not pushed out by the damaged one when the run goes on.
    save(again, 4)
    numbers = [StateFolder(states.folder)._read(entry).content["number"] for entry in again.paths()]
    assert numbers == [2, 4]


def test_every_byte_counts(states):
    """Flip one bit at each of 200 places of the newest state: the load never returns it, and never fails."""
    draw = torch.Generator().manual_seed(0)
    for suffix in (".json", ".safetensors"):
        path = states.folder / f"state-000003{suffix}"
        good = path.read_bytes()
        for _ in range(100):
            place = int(torch.randint(len(good) - 1, (), generator=draw))  # the last one is the line's end
            bit = int(torch.randint(8, (), generator=draw))
            bad = bytearray(good)
            bad[place] ^= 1 << bit
            path.write_bytes(bad)
            assert StateFolder(states.folder).load().content == {"number": 2}, (suffix, place, bit)
        path.write_bytes(good)
    assert StateFolder(states.folder).load().content == {"number": 3}


def test_without_any_good_state_each_one_s_damage_is_told(states):
    for path in states.folder.iterdir():
        path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(ValueError, match=r"no state in .* is whole: state-000003.*state-000002"):
        StateFolder(states.folder).load()
    with pytest.raises(FileNotFoundError, match="has no state of a run; it is empty or missing"):
        StateFolder(states.folder / "nowhere").load()


class Malice:
    """Unpickling this makes a file."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
@pytest.mark.parametrize("kind", ["pickle", "torch"])
def test_a_pickle_in_the_place_of_a_state_is_refused_and_not_run(states, tmp_path, suffix, kind):
    mark = tmp_path / "executed"
    for number in (2, 3):
        path = states.folder / f"state-00000{number}{suffix}"
        if kind == "pickle":
            path.write_bytes(pickle.dumps(Malice(mark)))
        else:
            torch.save({"model": Malice(mark)}, path)
    with pytest.raises(ValueError, match="pickle.*which can run any code when it is read: it is never opened"):
        StateFolder(states.folder).load()
    assert not mark.exists()


def test_states_of_another_format_are_refused_by_number(states):
    import hashlib

    for path in states.paths():
        body = json.loads(path.read_text())
        body.pop("sha256")
        body["format"] = 99
        digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        path.write_text(json.dumps({**body, "sha256": digest}))
    with pytest.raises(ValueError, match="has format 99"):
        StateFolder(states.folder).load()


def test_what_json_cannot_hold_is_refused_and_changes_nothing(states):
    with pytest.raises(ValueError, match=re.escape("Out of range float values")):
        states.save({"a": torch.ones(1)}, {"best": float("nan")})
    assert StateFolder(states.folder).load().content == {"number": 3}


def test_an_error_without_a_number_is_told_without_one(tmp_path, monkeypatch):
    def full(tensors, path):
        raise OSError(f"could not write {path}: no space left")  # as safetensors' writer does

    monkeypatch.setattr("ddetr_lab.training.state.write_safetensors", full)
    with pytest.raises(OSError, match=r"^could not save .*no space left; there is no earlier state$"):
        StateFolder(tmp_path / "state").save({}, {})
