"""Finding a checkpoint's files, and writing files whole or not at all."""

import os
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.utils import EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError

from ddetr_lab import files
from ddetr_lab.files import (
    check_writable,
    find_file,
    is_shipped,
    locked,
    read_object,
    shipped,
    shipped_names,
    write_atomically,
    write_together,
)


@pytest.mark.parametrize(
    ("content", "got"),
    [
        ("null", "got null"),
        ('"x"', "got a string"),
        ("[]", "got a list"),
        ("3", "got a number"),
        ("1.5", "got a number"),
        ("true", "got true or false"),
        ("", "got what is no JSON"),
        ('{"a": ', "got what is no JSON"),
        ('{"a": ' + 60 * "[" + 60 * "]" + "}", "got lists or objects more than 50 deep"),
        (5_000 * '{"a": ' + "1" + 5_000 * "}", "got lists or objects"),
        (100_000 * "[" + 100_000 * "]", "got lists or objects too deep"),
    ],
)
def test_a_file_that_holds_no_object_is_named(content: str, got: str, tmp_path: Path) -> None:
    (tmp_path / "some.json").write_text(content)
    with pytest.raises(ValueError, match=f"some.json is no config: expected a JSON object as save_pretrained .*{got}"):
        read_object(tmp_path / "some.json", "config")


def test_an_object_may_nest_as_configurations_do(tmp_path: Path) -> None:
    (tmp_path / "some.json").write_text('{"a": {"b": [[1], {"c": null}]}, "d": "\u00e9"}')
    assert read_object(tmp_path / "some.json", "config") == {"a": {"b": [[1], {"c": None}]}, "d": "\u00e9"}


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for the folder of shipped models, with one model."""
    folder = tmp_path / "weights" / "tiny"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (tmp_path / "weights" / "no-model").mkdir()
    monkeypatch.setattr(files, "_WEIGHTS", tmp_path / "weights")
    return folder


def forbid_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("the hub was asked")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)


def test_shipped_models_are_folders_with_a_configuration(weights: Path) -> None:
    assert shipped_names() == ["tiny"] and is_shipped("tiny") and not is_shipped("no-model")
    assert shipped("tiny") == weights
    with pytest.raises(KeyError, match="which has tiny"):
        shipped("huge")


def test_without_any_weights_the_message_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_WEIGHTS", tmp_path / "absent")
    with pytest.raises(KeyError, match="which has none"):
        shipped("tiny")


def test_a_folder_comes_before_a_shipped_model(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forbid_the_hub(monkeypatch)
    assert find_file("tiny", "config.json") == weights / "config.json"
    (tmp_path / "work" / "tiny").mkdir(parents=True)
    (tmp_path / "work" / "tiny" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path / "work")
    assert find_file("tiny", "config.json").resolve() == tmp_path / "work" / "tiny" / "config.json"


def test_the_first_of_several_names_counts(tmp_path: Path) -> None:
    for name in ("b", "c"):
        (tmp_path / name).write_text(name)
    assert find_file(tmp_path, "a", "b", "c").name == "b"
    with pytest.raises(FileNotFoundError, match=r"has no x or y; it holds b, c"):
        find_file(tmp_path, "x", "y")


def test_a_subfolder(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a").write_text("")
    assert find_file(tmp_path, "a", subfolder="sub") == tmp_path / "sub" / "a"
    with pytest.raises(FileNotFoundError, match="it holds nothing"):
        find_file(tmp_path, "a", subfolder="other")


@pytest.mark.parametrize(
    "name", ["/no/such", "./run", "~no-such-user", "a/b/c", "C:\\runs", "", "a//b", "digit", Path("org/name")]
)
def test_what_looks_like_a_path_never_goes_to_the_network(name: object, monkeypatch: pytest.MonkeyPatch) -> None:
    forbid_the_hub(monkeypatch)
    with pytest.raises(FileNotFoundError, match="is no folder, and neither a shipped model"):
        find_file(name, "config.json")


def test_the_hub_gets_the_options_and_each_name_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def download(repository: str, filename: str, **options: object) -> str:
        calls.append((repository, filename, options))
        if filename == "a":
            raise EntryNotFoundError("no a")
        return "/cache/b"

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert find_file("org/name", "a", "b", revision="v1") == Path("/cache/b")
    assert calls == [("org/name", "a", {"revision": "v1"}), ("org/name", "b", {"revision": "v1"})]
    with pytest.raises(FileNotFoundError, match="the hub repository 'org/name' has no a"):
        find_file("org/name", "a")


@pytest.mark.parametrize(
    "error", [LocalEntryNotFoundError("offline"), ConnectionError("refused"), ValueError("malformed name")]
)
def test_without_a_network_the_message_says_how_to_go_on(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*args: object, **kwargs: object) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(FileNotFoundError, match=r"the hub does not answer.*hf download org/name --local-dir"):
        find_file("org/name", "config.json")


def test_a_repository_that_the_hub_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Lacking(RepositoryNotFoundError):
        def __init__(self) -> None:  # the real one wants the answer of a server
            Exception.__init__(self, "404")

    def download(*args: object, **kwargs: object) -> str:
        raise Lacking

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(FileNotFoundError, match="no public repository on the hub: check the spelling"):
        find_file("org/name", "config.json")


def test_a_missing_hub_client_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match="pip install huggingface_hub, or give a folder"):
        find_file("org/name", "config.json")


def test_an_unknown_option_is_named(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="unknown option colour: expected some of cache_dir"):
        find_file(tmp_path, "a", colour="red")


def test_a_file_that_cannot_be_written_is_told_before_the_work(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "report.json", "--json")
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / "old.json").write_text("kept")
    check_writable(tmp_path / "old.json", "--json")
    assert (tmp_path / "old.json").read_text() == "kept"
    with pytest.raises(IsADirectoryError, match=r"--json .*new cannot be written .* name one in a folder"):
        check_writable(tmp_path / "new", "--json")
    with pytest.raises(OSError, match="--out .*cannot be written"):
        check_writable(tmp_path / "old.json" / "below.json", "--out")


def test_a_file_is_replaced_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    write_atomically(tmp_path / "a", lambda path: path.write_text("new"))
    assert (tmp_path / "a").read_text() == "new" and os.listdir(tmp_path) == ["a"]


def test_a_file_has_the_ordinary_permissions_whatever_its_writer_does(tmp_path: Path) -> None:
    (tmp_path / "ordinary").write_text("")

    def write(path: Path) -> None:
        path.unlink()
        path.touch(mode=0o600)

    write_atomically(tmp_path / "a", write)
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_what_a_killed_process_left_does_not_stand_in_the_way(tmp_path: Path) -> None:
    (tmp_path / f".a.{os.getpid()}.part").write_text("half of")
    write_atomically(tmp_path / "a", lambda path: path.write_text(path.read_text() + "new"))
    assert (tmp_path / "a").read_text() == "new" and os.listdir(tmp_path) == ["a"]


def test_if_one_of_several_fails_all_stay_as_they_were(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        path.write_text("half of")
        raise OSError(28, "No space left on device")

    (tmp_path / "a").write_text("old a")
    (tmp_path / "b").write_text("old b")
    with pytest.raises(OSError, match="No space left"):
        write_together({tmp_path / "a": lambda path: path.write_text("new a"), tmp_path / "b": fail})
    assert (tmp_path / "a").read_text() == "old a" and (tmp_path / "b").read_text() == "old b"
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


@pytest.mark.skipif(sys.platform == "win32", reason="no locks on Windows")
def test_a_lock_that_is_not_waited_for_is_refused_at_once(tmp_path: Path) -> None:
    with locked(tmp_path / "lock"), pytest.raises(BlockingIOError), locked(tmp_path / "lock", wait=False):
        pass
    with locked(tmp_path / "lock", wait=False):
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="no locks on Windows")
def test_a_lock_whose_file_is_removed_while_it_is_taken_is_taken_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, stat = tmp_path / "lock", Path.stat
    calls: list[Path] = []

    def removed_at_first(self: Path, **options: Any) -> os.stat_result:
        calls.append(self)
        if len(calls) == 1:
            self.unlink()
        return stat(self, **options)

    monkeypatch.setattr(Path, "stat", removed_at_first)
    with locked(path):
        assert len(calls) == 2
        with pytest.raises(BlockingIOError), locked(path, wait=False):
            pass
