"""What a chapter's notebook must be, as functions from a notebook to a list of complaints.

nbval re-runs the cells and compares outputs, but it is blind to a cell that was never run, to what is inside a picture,
and to everything a reader sees that is not an output. These gates see it. `test_gates.py` plants each defect.
"""

import ast
import re
from collections.abc import Callable, Iterator

from nbformat import NotebookNode

Gate = Callable[[NotebookNode], list[str]]

BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
LONGEST_CELL = 40
FEWEST_FIGURES = 3
WORDS = range(1500, 4001)
MOST_DECIMALS = 6
SECTIONS = ("objectives", "exercises", "takeaways", "references")
# Tags and comments by which nbval can be told to look away.
BLINDFOLDS = re.compile(
    r"nbval[-_](skip|ignore[-_]output)|pytest[-_]skip|^#\s*PYTEST_VALIDATE_IGNORE_OUTPUT", re.I | re.M
)
# How fast one reads, a minute: prose, lines of code that were just announced, figures, formulas on a line of their own.
SPEEDS = {"words": 200, "lines of code": 40, "figures": 4, "formulas": 3}
STEP, TOLERANCE = 5, 3  # minutes: what is stated is rounded, and a word more does not change it
TIME = re.compile(r"\*\*Time\.\*\* (\d+) minutes to read, ([^*\n]*?) to run\b")
MACHINE_PATH = re.compile(r"(?<![\w.])(/(home|Users|root|work|tmp|opt|usr|private|content)/|[A-Za-z]:\\\\?\w)")
ALLOWED_OUTPUT = {"text/plain", "text/markdown", "image/png"}


def code_cells(notebook: NotebookNode) -> Iterator[tuple[str, NotebookNode]]:
    """Each code cell that holds code, with the name that complaints call it by."""
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "code" and cell.source.strip():
            yield f"cell {number} ({cell.source.strip().splitlines()[0][:40]!r})", cell


def markdown(notebook: NotebookNode) -> str:
    """All prose of a notebook as one text."""
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def printed(cell: NotebookNode) -> str:
    """Everything a reader sees as text below a code cell."""
    return "\n".join(
        output.text if output.output_type == "stream" else str(output.get("data", {}).get("text/plain", ""))
        for output in cell.outputs
    )


def pictures(cell: NotebookNode) -> int:
    """How many PNGs a code cell shows."""
    return sum("image/png" in output.get("data", {}) for output in cell.outputs)


def runs_on_python3(notebook: NotebookNode) -> list[str]:
    """The kernel is the one that every installation has, and cells have the ids that grading goes by."""
    kernel = notebook.metadata.get("kernelspec", {}).get("name")
    problems = [] if kernel == "python3" else [f"kernel is {kernel!r}, not 'python3'"]
    ids = [cell.get("id") for cell in notebook.cells]
    if None in ids or len(set(ids)) != len(ids):
        problems.append("cell ids are missing or repeated (save as nbformat 4.5 or later)")
    return problems


def was_run_in_order(notebook: NotebookNode) -> list[str]:
    """Every cell was run once, from the top: a cell that was never run passes nbval whatever it does."""
    counts = [cell.execution_count for _, cell in code_cells(notebook)]
    expected = list(range(1, len(counts) + 1))
    return [] if counts and counts == expected else [f"execution counts are {counts}, not 1 to {len(counts)}"]


def ran_cleanly(notebook: NotebookNode) -> list[str]:
    """No error and nothing on standard error is on the page."""
    problems = []
    for name, cell in code_cells(notebook):
        for output in cell.outputs:
            if output.output_type == "error":
                problems.append(f"{name} shows an error: {output.ename}")
            elif output.output_type == "stream" and output.name == "stderr":
                problems.append(f"{name} writes to stderr: {output.text.strip()[:60]!r}")
    return problems


def outputs_travel(notebook: NotebookNode) -> list[str]:
    """Outputs are text and PNG, the same on every machine: no paths, addresses or digits beyond rounding."""
    problems = []
    for name, cell in code_cells(notebook):
        for output in cell.outputs:
            unusual = set(output.get("data", {})) - ALLOWED_OUTPUT
            if unusual:
                problems.append(f"{name} shows {', '.join(sorted(unusual))}: print text, or show a PNG")
        text = printed(cell)
        if found := MACHINE_PATH.search(text):
            problems.append(f"{name} prints a path of one machine: {found.group()!r}")
        if found := re.search(r"0x[0-9a-fA-F]{6,}", text):
            problems.append(f"{name} prints the address {found.group()}")
        if found := re.search(rf"\d\.\d{{{MOST_DECIMALS + 1},}}", text):
            problems.append(f"{name} prints {found.group()}: more decimals than two machines agree on")
    return problems


def is_not_blindfolded(notebook: NotebookNode) -> list[str]:
    """No shell escapes (green when they fail), and no mark that tells nbval to look away."""
    problems = []
    for name, cell in code_cells(notebook):
        if re.search(r"^\s*(!|%%)", cell.source, re.M):
            problems.append(f"{name} uses a shell or cell magic: a failing one stays green")
        tags = "\n".join(cell.metadata.get("tags", []))
        if BLINDFOLDS.search(tags) or BLINDFOLDS.search(cell.source):
            problems.append(f"{name} tells nbval to look away")
    return problems


def figures_speak(notebook: NotebookNode) -> list[str]:
    """Each figure has a full sentence for those who cannot see it: metadata mystnb.image.alt, or markdown."""
    problems = []
    for name, cell in code_cells(notebook):
        count = pictures(cell)
        if count > 1:
            problems.append(f"{name} shows {count} pictures under one alt text: one figure a cell")
        alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
        if count and not is_sentence(alt):
            problems.append(f"{name} has a figure whose alt text is no sentence: {alt!r}")
    problems += [
        f"markdown image with alt text {alt!r}: write a sentence"
        for alt in re.findall(r"!\[(.*?)\]\(", markdown(notebook), re.S)
        if not is_sentence(alt)
    ]
    for directive in re.findall(r"(?:```|:::)\{(?:figure|image)\}.*?(?:```|:::)", markdown(notebook), re.S):
        alt = re.search(r"^:alt:\s*(.+)$", directive, re.M)
        if alt is None or not is_sentence(alt.group(1)):
            problems.append(f"figure without a sentence as :alt:: {directive.splitlines()[0]!r}")
    return problems


def is_sentence(text: str) -> bool:
    """Whether a text can stand for a picture: at least five words, ending in a full stop."""
    return len(text.split()) >= 5 and text.strip().endswith(".")


def figures_are_held(notebook: NotebookNode) -> list[str]:
    """A cell that draws also prints or asserts, since nbval does not look inside a picture."""
    return [
        f"{name} draws, but nothing in it is held: print a number or assert"
        for name, cell in code_cells(notebook)
        if pictures(cell)
        and not any(output.output_type == "stream" for output in cell.outputs)
        and not re.search(r"^\s*(assert |checks?\.|check_)", cell.source, re.M)
    ]


def count_figures(notebook: NotebookNode) -> int:
    """How many figures a notebook draws or places."""
    drawn = sum(pictures(cell) for _, cell in code_cells(notebook))
    return drawn + len(re.findall(r"!\[.*?\]\(|\{(?:figure|image)\}", markdown(notebook), re.S))


def has_enough_figures(notebook: NotebookNode) -> list[str]:
    """A chapter shows what it says."""
    figures = count_figures(notebook)
    return [] if figures >= FEWEST_FIGURES else [f"{figures} figures, fewer than {FEWEST_FIGURES}"]


def cells_are_short(notebook: NotebookNode) -> list[str]:
    """A cell fits a screen."""
    return [
        f"{name} has {lines} lines, more than {LONGEST_CELL}"
        for name, cell in code_cells(notebook)
        if (lines := len(cell.source.splitlines())) > LONGEST_CELL
    ]


def count_words(text: str) -> int:
    """Words of prose: formulas, code and the options of directives do not count."""
    text = re.sub(r"\$\$.*?\$\$", " ", text, flags=re.S)
    text = re.sub(r"```(?!\{).*?```", " ", text, flags=re.S)
    text = re.sub(r"^\s*(:[\w-]+:|```|:::).*$", " ", text, flags=re.M)
    text = re.sub(r"\$[^$]*\$|`[^`]*`", " x ", text)
    return len(re.findall(r"[^\W\d_][\w'’-]*", text))


def has_chapter_length(notebook: NotebookNode) -> list[str]:
    """One sitting: long enough to explain, short enough to finish."""
    words = count_words(markdown(notebook))
    return [] if words in WORDS else [f"{words} words, not {WORDS.start} to {WORDS.stop - 1}"]


def has_chapter_parts(notebook: NotebookNode) -> list[str]:
    """A title, and the parts each chapter has."""
    text = markdown(notebook)
    problems = [] if re.match(r"# \S", text) else ["the first cell does not start with a title ('# ...')"]
    named = "\n".join(re.findall(r"^(?:#+ .*|\*\*.*?\*\*.*|(?:```|:::+)\{.*)$", text, re.M)).lower()
    problems += [f"no part is called {part!r}" for part in SECTIONS if part not in named]
    return problems


def reading_minutes(notebook: NotebookNode) -> float:
    """How long a notebook takes to read, by `SPEEDS`."""
    text = markdown(notebook)
    counts = {
        "words": count_words(text),
        "lines of code": sum(len(cell.source.strip().splitlines()) for _, cell in code_cells(notebook)),
        "figures": count_figures(notebook),
        "formulas": len(re.findall(r"\$\$.*?\$\$", text, re.S)),
    }
    return sum(counts[name] / speed for name, speed in SPEEDS.items())


def states_its_time(notebook: NotebookNode) -> list[str]:
    """A chapter says how long it takes to read, as counted, and to run; `test_pages.py` holds the latter."""
    minutes = reading_minutes(notebook)
    found = TIME.search(markdown(notebook))
    if found is None:
        return ["no line '**Time.** N minutes to read, N seconds to run ...'"]
    stated = int(found[1])
    if stated % STEP or abs(stated - minutes) > TOLERANCE:
        return [f"{stated} minutes to read are stated, {minutes:.1f} are counted: `make book-pages` writes them"]
    return []


def solution_marks_balance(notebook: NotebookNode) -> list[str]:
    """BEGIN and END alternate inside each cell: whatever stands between is cut from a student's copy."""
    problems = []
    for name, cell in code_cells(notebook):
        marks = [line.strip() for line in cell.source.splitlines() if "SOLUTION" in line]
        if marks != [BEGIN, END] * (len(marks) // 2):
            problems.append(f"{name} has the marks {marks}")
    if BEGIN in markdown(notebook) or END in markdown(notebook):
        problems.append("a solution mark stands in prose, where nothing removes it")
    return problems


def calls_a_check(source: str) -> bool:
    """Whether code calls something of ddetr_lab.checks: `check_x(...)`, `checks.x(...)` or `check.x(...)`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called.startswith(("checks.", "check.", "check_")) or called == "check":
                return True
    return False


def exercises_are_complete(notebook: NotebookNode) -> list[str]:
    """Every exercise can be checked, and every exercise has a solution."""
    return unchecked_code(notebook) + unsolved_prose(notebook)


def unchecked_code(notebook: NotebookNode) -> list[str]:
    """A code exercise is a cell with solution marks: that cell or the next code cell calls a check."""
    cells = list(code_cells(notebook))
    exercises = [place for place, (_, cell) in enumerate(cells) if BEGIN in cell.source]
    if not exercises:
        return ["no exercise with a check in code"]
    return [
        f"{cells[place][0]} is an exercise that no check follows"
        for place in exercises
        if not any(calls_a_check(cell.source) for _, cell in cells[place : place + 2])
    ]


def unsolved_prose(notebook: NotebookNode) -> list[str]:
    """A sphinx-exercise directive has a folded solution of its label, or a code exercise as the very next cell."""
    problems = []
    text = markdown(notebook)
    for place, cell in enumerate(notebook.cells):
        parts = (
            re.split(r"(?:`{3,}|:{3,})\{exercise(?:-start)?\}", cell.source)[1:] if cell.cell_type == "markdown" else []
        )
        for number, part in enumerate(parts, start=1):
            label = re.search(r"^:label:\s*(\S+)", part, re.M)
            if label is None:
                problems.append(f"an exercise without a label: {part.strip()[:40]!r}")
                continue
            solution = re.search(rf"\{{solution(?:-start)?\}} {re.escape(label.group(1))}\n((?::.*\n)*)", text)
            following = "".join(cell.source for cell in notebook.cells[place + 1 : place + 2])
            if solution is None and not (number == len(parts) and BEGIN in following):
                problems.append(f"exercise {label.group(1)} has no solution")
            if solution is not None and "dropdown" not in solution.group(1):
                problems.append(f"the solution of {label.group(1)} is not folded away (:class: dropdown)")
    return problems


GATES: dict[str, Gate] = {
    gate.__name__: gate
    for gate in (
        runs_on_python3,
        was_run_in_order,
        ran_cleanly,
        outputs_travel,
        is_not_blindfolded,
        figures_speak,
        figures_are_held,
        has_enough_figures,
        cells_are_short,
        has_chapter_length,
        has_chapter_parts,
        states_its_time,
        solution_marks_balance,
        exercises_are_complete,
    )
}
