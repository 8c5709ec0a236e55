"""Find a checkpoint's files (folder, shipped name or hub), and write files that are whole or not there.

Built in chapter 12.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

__all__ = [
    "HubOptions",
    "check_writable",
    "find_file",
    "is_shipped",
    "locked",
    "refuse_push",
    "read_object",
    "shipped",
    "shipped_names",
    "write_atomically",
    "write_together",
]

_WEIGHTS = Path(__file__).parent / "weights"

# A configuration nests three deep; what nests deeper than this breaks whatever walks through it.
_DEEPEST = 50

# What `find_file` passes on to the hub client; a tuple so that callers can split their own keyword arguments by it.
HubOptions: tuple[str, ...] = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")


def shipped_names() -> list[str]:
    """List the names of the trained models that come with the package, sorted."""
    if not _WEIGHTS.is_dir():
        return []
    return sorted(folder.name for folder in _WEIGHTS.iterdir() if (folder / "config.json").is_file())


def is_shipped(name: str | os.PathLike[str]) -> bool:
    """Tell whether ``name`` is one of the shipped models; a path that merely ends in such a name is not."""
    return str(name) in shipped_names()


def shipped(name: str) -> Path:
    """Return the folder of a trained model that comes with the package.

    The folder holds ``config.json``, ``model.safetensors``, ``preprocessor_config.json`` and a card, ``README.md``.

    Args:
        name: for example ``"digits"``.

    Raises:
        KeyError: if no such model is shipped; the message lists those that are.

    Built in chapter 1.
    """
    if not is_shipped(name):
        raise KeyError(
            f"shipped({name!r}): no trained model of that name comes with this package, "
            f"which has {', '.join(shipped_names()) or 'none'}; for a folder of your own call from_pretrained(folder)"
        )
    return _WEIGHTS / name


def find_file(name_or_path: str | os.PathLike[str], *filenames: str, **hub_options: Any) -> Path:
    """Find a file of a checkpoint, in a folder first, then among the shipped models, then on the hub.

    Args:
        name_or_path: a folder; or the name of a shipped model such as ``"digits"``; or a hub repository such as
            ``"SenseTime/deformable-detr"``. A folder wins over the other two.
        *filenames: names inside it, for example ``"config.json"``; of several, the first that is there counts.
        **hub_options: any of ``HubOptions``, in the meaning of ``huggingface_hub.hf_hub_download``; ``subfolder``
            counts for folders too.

    Returns:
        The path of an existing file.

    Raises:
        FileNotFoundError: if there is no such file; says what was looked at and how to go on without a network.
        ImportError: if the hub is needed and ``huggingface_hub`` is not installed.
        TypeError: for an option outside ``HubOptions``.
    """
    unknown = sorted(set(hub_options) - set(HubOptions))
    if unknown:
        raise TypeError(f"unknown option {', '.join(unknown)}: expected some of {', '.join(HubOptions)}")
    folder = Path(os.path.expanduser(name_or_path))
    if not folder.is_dir() and is_shipped(name_or_path):
        folder = _WEIGHTS / str(name_or_path)
    if str(name_or_path) and folder.is_dir():  # an empty name is not the current folder
        return _first_in_folder(folder / str(hub_options.get("subfolder") or ""), filenames)
    if not _is_repository_name(name_or_path):
        raise FileNotFoundError(
            f"{str(name_or_path)!r} is no folder, and neither a shipped model ({', '.join(shipped_names()) or 'none'}) "
            "nor a hub name such as 'SenseTime/deformable-detr'; give the folder that save_pretrained wrote"
        )
    return _download(str(name_or_path), filenames, hub_options)


def _first_in_folder(folder: Path, filenames: tuple[str, ...]) -> Path:
    for filename in filenames:
        if (folder / filename).is_file():
            return folder / filename
    present = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    raise FileNotFoundError(
        f"the folder {folder} has no {' or '.join(filenames)}; it holds {', '.join(present[:10]) or 'nothing'}; "
        "expected what save_pretrained writes"
    )


def _is_repository_name(name: str | os.PathLike[str]) -> bool:
    # A path, or a string that is no "owner/name", is never sent to the network: a slip stays a quick local error.
    if not isinstance(name, str) or not name or name.startswith((".", "/", "~", "-")) or "\\" in name:
        return False
    parts = name.split("/")
    return len(parts) == 2 and all(part and part.replace("-", "").replace("_", "").replace(".", "") for part in parts)


def _download(repository: str, filenames: tuple[str, ...], hub_options: dict[str, Any]) -> Path:
    try:
        import huggingface_hub
        from huggingface_hub.utils import EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError
    except ImportError as error:
        raise ImportError(
            f"{repository!r} is no folder here, and the hub needs huggingface_hub, which is not installed: "
            "pip install huggingface_hub, or give a folder that save_pretrained wrote"
        ) from error
    for filename in filenames:
        try:
            return Path(huggingface_hub.hf_hub_download(repository, filename, **hub_options))
        except RepositoryNotFoundError as error:
            raise FileNotFoundError(
                f"{repository!r} is no folder here and no public repository on the hub: check the spelling; "
                "a private one needs token="
            ) from error
        except EntryNotFoundError as error:
            if isinstance(error, LocalEntryNotFoundError):  # not cached, and the hub does not answer
                raise FileNotFoundError(_offline_advice(repository, filename)) from error
        except (OSError, ValueError) as error:
            # Refused connections, time-outs, offline mode and malformed names; programming errors pass untouched.
            raise FileNotFoundError(
                f"{_offline_advice(repository, filename)} ({type(error).__name__}: {error})"
            ) from error
    raise FileNotFoundError(f"the hub repository {repository!r} has no {' or '.join(filenames)}")


def _offline_advice(repository: str, filename: str) -> str:
    return (
        f"{repository!r} is no folder here, its {filename} is not in the local cache, and the hub does not answer. "
        f"With a network: hf download {repository} --local-dir FOLDER, then from_pretrained('FOLDER'). "
        f"Without one: a folder, or a shipped model ({', '.join(shipped_names()) or 'none here'})"
    )


def read_object(path: Path, kind: str) -> dict[str, Any]:
    """Read a JSON file that holds one object.

    Args:
        path: of an existing file.
        kind: what the file should be, for the message: "config".

    Raises:
        ValueError: if it is no JSON, no object, or nests deeper than any configuration does.
    """
    expected = f"{path} is no {kind}: expected a JSON object as save_pretrained writes it, got"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError(f"{expected} lists or objects too deep in each other to be read") from error
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are both one
        raise ValueError(f"{expected} what is no JSON ({error})") from error
    if not isinstance(content, dict):
        kinds = {type(None): "null", bool: "true or false", str: "a string", list: "a list"}
        raise ValueError(f"{expected} {kinds.get(type(content), 'a number')}")
    if not _nests_at_most(_DEEPEST, content):
        raise ValueError(f"{expected} lists or objects more than {_DEEPEST} deep in each other")
    return content


def _nests_at_most(levels: int, value: Any) -> bool:
    if not isinstance(value, (dict, list)):
        return True
    children = value.values() if isinstance(value, dict) else value
    return levels > 0 and all(_nests_at_most(levels - 1, child) for child in children)


def check_writable(path: str | os.PathLike[str], option: str) -> None:
    """Fail now if a file cannot be written, rather than when hours of work are to go into it.

    Folders above it are made. A file that is there already stays as it is.

    Args:
        path: of the file.
        option: that the path came with, for the message.

    Raises:
        OSError: if it cannot be written there.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = not path.exists()
        with open(path, "ab"):
            pass
        if new:
            path.unlink()
    except OSError as error:
        raise type(error)(
            f"{option} {path} cannot be written ({error.strerror or error}): name one in a folder that you may write to"
        ) from error


def refuse_push(push_to_hub: bool) -> None:
    """Refuse what ``save_pretrained`` of the reference offers and only an account allows.

    Raises:
        ValueError: if it was asked for.
    """
    if push_to_hub:
        raise ValueError("push_to_hub=True is not supported: save, then run huggingface-cli upload on the folder")


def write_atomically(path: str | os.PathLike[str], write: Callable[[Path], object]) -> None:
    """Write one file as :func:`write_together` writes several."""
    write_together({Path(path): write})


def write_together(writers: Mapping[Path, Callable[[Path], object]]) -> None:
    """Write files so that a reader, or a crash, sees each as it was or as it shall be, never half of one.

    All are written beside their places first and renamed at the end, so that a full disk leaves every old file.

    Args:
        writers: for each final path (in an existing folder) a function that fills the file whose path it is given.

    Raises:
        OSError: whatever a writer met, for example a full disk; nothing has changed then.
    """
    with ExitStack() as stack:
        moves = []
        for target, write in writers.items():
            temporary = stack.enter_context(_temporary_beside(target))
            temporary.touch()
            mode = temporary.stat().st_mode
            write(temporary)
            temporary.chmod(mode)  # some writers make files that only their owner may read
            with open(temporary, "rb+") as stream:
                os.fsync(stream.fileno())  # the bytes must be on disk before the name points to them
            moves.append((temporary, target))
        for temporary, target in moves:
            os.replace(temporary, target)


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold an exclusive lock on ``path`` (not on Windows); the file stays, the lock goes with the process.

    Args:
        path: of the lock's own file, made if missing.
        wait: until whoever holds it lets go; False raises at once.

    Raises:
        BlockingIOError: if another holds it and ``wait`` is False.
        OSError: if the file cannot be made, or the file system knows no locks.
    """
    with ExitStack() as stack:
        while True:
            handle = stack.enter_context(path.open("w"))
            if sys.platform != "win32":
                import fcntl

                # A child, such as a loader's worker, must not hold on to it when this process is killed.
                os.register_at_fork(after_in_child=handle.close)
                fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            try:
                there = path.stat()
            except FileNotFoundError:
                continue  # whoever held it has removed the file in the meantime
            if os.path.samestat(os.fstat(handle.fileno()), there):
                break  # else another has made it anew
        yield


@contextmanager
def _temporary_beside(target: Path) -> Iterator[Path]:
    # Beside the target, as os.replace is atomic only within one file system. Not tempfile, whose files are private.
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    temporary.unlink(missing_ok=True)  # of a killed process that had the same number
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)
