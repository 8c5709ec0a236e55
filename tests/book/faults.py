"""Proof that the notebooks are tests: faults planted in copies of the package, each of which must turn a notebook red.

`make fault-check` copies the package, plants one fault in the copy, and lets nbval re-run the chapters that ought to
notice, in their order, until one does. A copy without a fault runs first: were it not green, red would prove nothing.
The working tree is never touched. `test_faults.py` holds that each fault still finds the text that it replaces.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import nbformat

from tests.book.fault_list import FAULTS, Fault

ROOT = Path(__file__).resolve().parents[2]


def notebook_of(chapter: int) -> Path:
    """Return the path of a chapter's notebook.

    Raises:
        FileNotFoundError: if there is no such chapter, or more than one.
    """
    found = list((ROOT / "book").glob(f"{chapter:02d}_*.ipynb"))
    if len(found) != 1:
        raise FileNotFoundError(f"chapter {chapter} has {len(found)} notebooks in book/, expected one")
    return found[0]


def copy_book(folder: Path, chapters: Sequence[int]) -> None:
    """Copy the package and some notebooks to where a fault may be planted; what is only read is linked."""
    shutil.copytree(ROOT / "ddetr_lab", folder / "ddetr_lab", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("csrc", "tests"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "book").mkdir()
    (folder / "book" / "_data").symlink_to(ROOT / "book" / "_data")
    for chapter in chapters:
        shutil.copy(notebook_of(chapter), folder / "book")


def first_red_cell(folder: Path, notebook: Path) -> str | None:
    """Re-run a notebook with the package in `folder`, and return the first cell that turns red, or None.

    Raises:
        RuntimeError: if nbval ends in a way that is neither green nor red.
    """
    sanitize = ROOT / "tests/book/nbval_sanitize.cfg"
    command = [sys.executable, "-m", "pytest", str(notebook), "--nbval", "--nbval-current-env", "-x", "-q"]
    command += [f"--nbval-sanitize-with={sanitize}", "--nbval-cell-timeout=600", "--tb=no", "-rfE"]
    command += ["-n", "0", "-p", "no:randomly", "-p", "no:cacheprovider", "--rootdir", str(folder), "-c", os.devnull]
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    red = re.search(r"^(?:FAILED|ERROR) .*::Cell (\d+)", result.stdout, re.M)
    if (result.returncode, red is None) not in ((0, True), (1, False)):
        raise RuntimeError(f"nbval ended with {result.returncode}:\n{result.stdout[-2000:]}{result.stderr[-2000:]}")
    if red is None:
        return None
    cells = [cell for cell in nbformat.read(notebook, as_version=4).cells if cell.cell_type == "code"]
    return str(cells[int(red[1])]["id"])


def plant(fault: Fault | None, folder: Path, every: bool = False) -> list[str]:
    """Return "notebook: cell" of each notebook that notices a fault, the first one only unless `every`.

    Without a fault all chapters run that any fault names.
    """
    chapters = fault.chapters if fault else sorted({chapter for each in FAULTS for chapter in each.chapters})
    copy_book(folder, chapters)
    if fault:
        file = folder / "ddetr_lab" / fault.path
        file.write_text(fault.apply(file.read_text(encoding="utf-8")), encoding="utf-8")
    noticed = []
    for chapter in chapters:
        notebook = folder / "book" / notebook_of(chapter).name
        if cell := first_red_cell(folder, notebook):
            noticed.append(f"{notebook.stem}: {cell}")
            if fault and not every:
                break
    return noticed


def check(faults: Sequence[Fault], every: bool, tell: Callable[[str], None]) -> bool:
    """Run the control and all faults, tell a row of a table each, and return whether all is as it should be."""
    rows = [("no fault: every notebook stays green", None), *[(fault.says, fault) for fault in faults]]
    tell("| fault | what noticed it: notebook, and id of its first red cell | seconds |\n|---|---|--:|")
    missed = 0
    for says, fault in rows:
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            noticed = plant(fault, Path(folder), every)
        fine = bool(noticed) == (fault is not None)
        missed += not fine
        told = "; ".join(noticed) or ("nothing" if fine else "NOTHING")
        tell(f"| {says} | {told if fine or not noticed else 'RED: ' + told} | {time.perf_counter() - start:.0f} |")
    tell(f"\n{len(faults)} faults, {missed} rows not as they should be.")
    return missed == 0


def main() -> int:
    """Run the command line; exit with 1 if a fault goes unnoticed or the control is not green."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", action="store_true", help="go on to the other chapters that ought to notice")
    parser.add_argument("--only", metavar="TEXT", default="", help="only faults whose words contain TEXT")
    arguments = parser.parse_args()
    faults = [fault for fault in FAULTS if arguments.only in fault.says]
    return 0 if check(faults, arguments.every, lambda line: print(line, flush=True)) else 1


if __name__ == "__main__":
    sys.exit(main())
