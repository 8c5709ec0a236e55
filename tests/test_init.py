"""The package's front door: what it offers, and that opening it costs nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import ddetr_lab

# Prints every file that is opened for writing, every folder made, every process and connection started by an import.
WATCHED_IMPORT = """
import os, sys
touched = []
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
def watch(event, arguments):
    if event == "open" and (arguments[2] or 0) & WRITING:
        touched.append(str(arguments[0]))
    elif event in ("os.mkdir", "os.rename", "subprocess.Popen", "os.posix_spawn", "socket.connect"):
        touched.append(event)
sys.addaudithook(watch)
import ddetr_lab
print(touched)
print([name for name in ("torch", "numpy", "PIL", "timm", "scipy", "matplotlib") if name in sys.modules])
"""


def run(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=True, timeout=120
    )


@pytest.mark.parametrize("name", ddetr_lab.__all__)
def test_every_public_name_can_be_fetched(name: str) -> None:
    assert getattr(ddetr_lab, name) is not None
    assert name in dir(ddetr_lab)


def test_an_unknown_name_is_an_attribute_error_that_lists_the_names() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Detr'.*DeformableDetrConfig"):
        _ = ddetr_lab.Detr  # type: ignore[attr-defined]


def test_import_writes_nothing_starts_nothing_and_loads_no_library(root: Path) -> None:
    touched, libraries = run(root, "-c", WATCHED_IMPORT).stdout.splitlines()
    assert touched == "[]"
    assert libraries == "[]"


def test_the_watch_sees_a_file_that_is_written(root: Path, tmp_path: Path) -> None:
    code = WATCHED_IMPORT.replace("import ddetr_lab\n", f"open({str(tmp_path / 'mark')!r}, 'w').close()\n")
    assert "mark" in run(root, "-c", code).stdout


def test_import_takes_less_than_three_tenths_of_a_second(root: Path) -> None:
    rows = run(root, "-X", "importtime", "-c", "import ddetr_lab").stderr.splitlines()
    microseconds = [int(row.split("|")[1]) for row in rows if row.split("|")[-1].strip() == "ddetr_lab"]
    assert len(microseconds) == 1 and microseconds[0] < 300_000


def test_the_model_class_brings_torch_but_neither_timm_nor_scipy_nor_matplotlib(root: Path) -> None:
    code = (
        "import sys, ddetr_lab\n"
        "ddetr_lab.DeformableDetrForObjectDetection, ddetr_lab.DeformableDetrModel, ddetr_lab.ms_deform_attn\n"
        "print([n for n in ('torch', 'timm', 'scipy', 'matplotlib', 'pycocotools') if n in sys.modules])"
    )
    assert run(root, "-c", code).stdout.strip() == "['torch']"
