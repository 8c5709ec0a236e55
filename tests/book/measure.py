"""Run the chapters, hold what they print against the pages, and keep how long each took and with which versions.

`make book-table` does it, with one thread a process. What is kept is the processor time of the kernel and of everything
that it started, which other work on the machine disturbs little, and the time on the clock. A chapter that prints
something else than its page is not kept.
"""

import argparse
import configparser
import json
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

from ddetr_lab.benchmark.machine import describe_machine, describe_versions, today
from tests.book import gates

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
BOOK = ROOT / "book"
FILE = BOOK / "_data" / "chapters.json"
USED = "import os as _os\nprint(sum(_os.times()[:4]))"  # user and system, own and children's


def distributions() -> dict[str, str]:
    """Return what pyproject.toml asks for to read, run and test the book: name and supported range."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["train"], *extras["book"], *extras["test"]]
    found = [re.match(r"([\w.-]+)(?:\[\w+\])?([^;]*)", each) for each in wanted if not each.startswith("ddetr-lab")]
    return {match[1]: match[2].strip() for match in found if match}


def sanitized(text: str) -> str:
    """Return a text without what may differ between two honest runs: nbval's own rules."""
    rules = configparser.RawConfigParser()
    rules.read(ROOT / "tests" / "book" / "nbval_sanitize.cfg")
    for section in rules.sections():
        text = re.sub(rules.get(section, "regex"), rules.get(section, "replace"), text)
    return text


def said(cell: NotebookNode) -> str:
    """Return what a cell prints and shows as text, however its output was cut into pieces."""
    streams = [output.text for output in cell.outputs if output.output_type == "stream"]
    shown = [str(output.data.get("text/plain", "")) for output in cell.outputs if "data" in output]
    return sanitized("".join([*streams, *shown]))


def differing(page: NotebookNode, run: NotebookNode) -> list[str]:
    """Return the ids of the cells that print something else than on the page."""
    return [
        str(old["id"])
        for (_, old), (_, new) in zip(gates.code_cells(page), gates.code_cells(run), strict=True)
        if said(old) != said(new)
    ]


def run(path: Path) -> tuple[NotebookNode, dict[str, float]]:
    """Execute a copy of a notebook; return the copy with its outputs, and the seconds it took."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook,
            timeout=900,
            kernel_name="python3",
            coalesce_streams=True,
            resources={"metadata": {"path": folder}},
        )
        start = time.perf_counter()
        with client.setup_kernel():
            for place, cell in enumerate(list(notebook.cells)):
                client.execute_cell(cell, place)
            clock = time.perf_counter() - start
            last = nbformat.v4.new_code_cell(USED)
            notebook.cells.append(last)
            client.execute_cell(last, len(notebook.cells) - 1)
            notebook.cells.pop()
    return notebook, {"processor": round(float(gates.printed(last)), 1), "clock": round(clock, 1)}


def read(file: Path = FILE) -> dict[str, Any]:
    """Return what was measured last, by chapter; nothing where nothing was."""
    empty: dict[str, Any] = {"chapters": {}}
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else empty


def measure(paths: Sequence[Path], file: Path = FILE) -> list[str]:
    """Run chapters, write what was measured beside what is known of the others, and return complaints."""
    complaints, kept = [], read(file)
    machine = describe_machine()
    for path in paths:
        page = nbformat.read(path, as_version=4)
        result, seconds = run(path)
        if cells := differing(page, result):
            complaints.append(f"{path.stem}: cells {cells} print something else than the page does")
            continue
        print(
            f"{path.stem:32} {seconds['processor']:6.1f} s of one core, {seconds['clock']:6.1f} s on the clock",
            flush=True,
        )
        kept["chapters"][path.stem] = {**seconds, "date": today()[:10], "cpu": machine["cpu"]}
        kept["versions"] = describe_versions(list(distributions()))
        write(kept, file)
    write(kept, file)
    return complaints


def write(kept: dict[str, Any], file: Path) -> None:
    """Write what was measured of chapters that exist."""
    existing = {path.stem for path in BOOK.glob("[0-9][0-9]_*.ipynb")}
    kept["chapters"] = {stem: each for stem, each in sorted(kept["chapters"].items()) if stem in existing}
    file.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("chapters", nargs="*", type=int, help="numbers; by default all")
    arguments = parser.parse_args()
    paths = sorted(BOOK.glob("[0-9][0-9]_*.ipynb"))
    complaints = measure([path for path in paths if int(path.stem[:2]) in (arguments.chapters or range(100))])
    print("\n".join(complaints) if complaints else "every printed output is that of its page")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
