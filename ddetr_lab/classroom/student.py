"""The class set: the book's notebooks without solutions, outputs and answers.

Used in every chapter.
"""

from __future__ import annotations

import ast
import json
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ddetr_lab.classroom.exercises import (
    BEGIN,
    END,
    MANIFEST,
    RECORDS,
    SOLUTION,
    Chapter,
    ClassroomError,
    source_of,
)

__all__ = ["MANIFEST", "PLACEHOLDER", "hidden_lines", "student_notebook", "write_student_set"]

PLACEHOLDER = "*Your answer: replace this line.*"
# A folder of records in a code cell, or one of its files.
READ = re.compile(rf'"{RECORDS}"\s*/\s*"([\w.-]+)"(?:\s*/\s*"([\w.-]+)")?')
LINK = re.compile(r"\]\(([^)\s#]+)[^)\s]*\)")
SHORTEST_SECRET = 12  # characters; a shorter line of a solution, such as "return x", tells nothing

README = """# {count} chapters to work through

Open a notebook in JupyterLab (`jupyter lab`) and run it from the top, cell by cell. Where a cell raises
`NotImplementedError`, it is your turn: replace that line by your code, then run the check below it. A check that passes
prints one sentence. A check that fails says what it expected and gives a hint. Cells after an exercise may use your
function, and raise the same error until it is written.

- Leave the check cells as they are: the grading puts the original ones back.
- Write answers in words into the cells that say "{placeholder}".
- Before you hand in, restart the kernel and run all cells: what works only in your session does not count.
- Hand in the notebooks under their names. Other files are not read.

You need the package `ddetr_lab`; `ddetr-lab doctor` says whether all is there.

| notebook | exercises in code | questions |
|---|---|---|
{rows}
"""


def write_student_set(chapters: Sequence[Chapter], folder: Path) -> list[Path]:
    """Write the chapters' student versions, the files they link to, a manifest and a README.

    Args:
        chapters: with their solutions.
        folder: new or empty; nothing is ever overwritten.

    Returns:
        the files written.

    Raises:
        ClassroomError: if the folder holds something or cannot be made, or a solution would be left in a file.
    """
    if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        raise ClassroomError(f"--out {folder} is not empty. Name a new folder: a class set never overwrites anything.")
    texts: dict[str, str] = {}
    for chapter in chapters:
        made = student_notebook(chapter)
        _refuse_leaks(chapter, made)
        texts[chapter.path.name] = json.dumps(made, indent=1, ensure_ascii=False) + "\n"
    texts[MANIFEST] = json.dumps(_manifest(chapters), indent=1, ensure_ascii=False) + "\n"
    texts["README.md"] = _readme(chapters)
    assets = sorted({asset for chapter in chapters for asset in _assets(chapter)})
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ClassroomError(
            f"--out {folder} cannot be made ({error.strerror}): name one in a folder that you may write to."
        ) from error
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    book = chapters[0].path.parent
    for asset in assets:
        (folder / asset).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(book / asset, folder / asset)
    return [folder / name for name in (*texts, *map(str, assets))]


def student_notebook(chapter: Chapter) -> dict[str, Any]:
    """Return a notebook with stubs for solutions, empty cells for answers, and no outputs.

    Raises:
        ClassroomError: if a stub would not be Python.
    """
    titles = {exercise.solution: exercise.title for exercise in chapter.exercises}
    questions = {prose.cell: prose for prose in chapter.prose}
    cells = []
    for cell in chapter.notebook["cells"]:
        source, solved = source_of(cell), cell["id"] in titles
        # A solution's metadata folds it away; the stub must be seen.
        kept = {"cell_type": cell["cell_type"], "id": cell["id"], "metadata": {} if solved else cell["metadata"]}
        if cell["cell_type"] == "code":
            if BEGIN in source:
                source = _stubbed(source, titles[cell["id"]], f"{chapter.path.name}, {cell['id']}")
            cells.append({**kept, "execution_count": None, "outputs": [], "source": _lines(source)})
            continue
        cells.append({**kept, "source": _lines(_without_answers(source, chapter.path.name))})
        if cell["id"] in questions:
            answer = {"cell_type": "markdown", "id": questions[cell["id"]].answer, "metadata": {}}
            cells.append({**answer, "source": [PLACEHOLDER]})
    notebook = chapter.notebook
    metadata = {
        key: notebook["metadata"][key] for key in ("kernelspec", "language_info") if key in notebook["metadata"]
    }
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": max(5, notebook["nbformat_minor"])}


def hidden_lines(chapter: Chapter) -> Counter[str]:
    """Count the lines that only the teacher's version may have: solutions, and answers sentence by sentence."""
    lines: list[str] = []
    for cell in chapter.notebook["cells"]:
        source = source_of(cell)
        if cell["cell_type"] == "code":
            inside = re.findall(rf"{BEGIN}\n(.*?){END}", source, re.S)
        else:
            shown = _without_answers(source, chapter.path.name).splitlines()
            inside = ["\n".join((Counter(source.splitlines()) - Counter(shown)).elements())]
        lines += [line.strip() for part in inside for line in part.splitlines()]
    return Counter(line for line in lines if len(line) >= SHORTEST_SECRET)


def _lines(source: str) -> list[str]:
    return source.splitlines(keepends=True)


def _stubbed(source: str, title: str, where: str) -> str:
    """Replace what stands between the marks by a line that says whose turn it is."""
    stub = json.dumps(f"{title}: replace this line by your code", ensure_ascii=False)
    made = re.sub(
        rf"^([ \t]*){BEGIN}\n.*?^[ \t]*{END}[ \t]*$",
        lambda found: f"{found[1]}raise NotImplementedError({stub})",
        source,
        flags=re.S | re.M,
    )
    if "SOLUTION" in made:
        raise ClassroomError(f"{where}: the solution marks do not come in pairs, each on a line of its own.")
    try:
        ast.parse(made)
    except SyntaxError as error:
        raise ClassroomError(f"{where}: without its solution the cell is not Python any more: {error}.") from error
    return made


def _without_answers(source: str, where: str) -> str:
    """Take out the directives that hold answers, each with its fence."""
    if "{solution-start}" in source:
        raise ClassroomError(f"{where}: write answers as {{solution}}; a {{solution-start}} is not taken out.")
    kept: list[str] = []
    fence = ""
    for line in source.splitlines():
        if fence:
            closing = line.strip()
            if closing and set(closing) == set(fence) and len(closing) >= len(fence):
                fence = ""
        elif SOLUTION.match(line):
            stripped = line.strip()
            fence = stripped[: stripped.index("{")]
        else:
            kept.append(line)
    if fence:
        raise ClassroomError(f"{where}: a {{solution}} is never closed.")
    return "\n".join(kept).rstrip()


def _refuse_leaks(chapter: Chapter, made: dict[str, Any]) -> None:
    """Count every hidden line on both sides: what is cut out once must be missing once."""

    def count(notebook: dict[str, Any]) -> Counter[str]:
        return Counter(line.strip() for cell in notebook["cells"] for line in source_of(cell).splitlines())

    before, after = count(chapter.notebook), count(made)
    for line, times in hidden_lines(chapter).items():
        if after[line] > before[line] - times:
            raise ClassroomError(f"{chapter.path.name}: this line of a solution would be left: {line!r}.")


def _assets(chapter: Chapter) -> list[str]:
    """The files inside the book that a chapter's prose links to, notebooks apart, and the records that its code reads.

    Notebooks would come with their answers.
    """
    book = chapter.path.parent.resolve()
    found = []
    for cell in chapter.notebook["cells"]:
        if cell["cell_type"] == "markdown":
            for link in LINK.findall(source_of(cell)):
                path = (book / link).resolve()
                if path.is_relative_to(book) and path.is_file() and path.suffix != ".ipynb":
                    found.append(path.relative_to(book).as_posix())
            continue
        for parts in READ.findall(source_of(cell)):
            path = (book / RECORDS).joinpath(*parts)
            files = [path] if path.is_file() else sorted(path.glob("*.json"))
            found += [file.relative_to(book).as_posix() for file in files if file.resolve().is_relative_to(book)]
    return found


def _manifest(chapters: Sequence[Chapter]) -> dict[str, Any]:
    return {
        "notebooks": {
            chapter.path.name: {
                "exercises": [
                    {
                        "label": one.label,
                        "title": one.title,
                        "solution_cell": one.solution,
                        "check_cell": one.check,
                        "check": f"{one.module}.{one.name}",
                        "points": one.points,
                    }
                    for one in chapter.exercises
                ],
                "questions": [
                    {"label": one.label, "title": one.title, "answer_cell": one.answer} for one in chapter.prose
                ],
            }
            for chapter in chapters
        }
    }


def _readme(chapters: Sequence[Chapter]) -> str:
    rows = [f"| {one.path.name} | {len(one.exercises)} | {len(one.prose)} |" for one in chapters]
    return README.format(count=len(chapters), placeholder=PLACEHOLDER.strip("*"), rows="\n".join(rows))
