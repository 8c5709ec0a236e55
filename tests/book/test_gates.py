"""Each gate lets a good chapter pass and stops the one defect planted in it: a gate that cannot fail is no gate."""

import configparser
import copy
import re
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tests.book import gates

PROSE = "a box is a box is a box and this is one more word of prose " * 130
TIME = "**Time.** 10 minutes to read, 20 seconds to run."
ALT = "A red box around the digit seven."


def figure_cell(number: int) -> NotebookNode:
    """A cell as chapters draw them: it prints what it draws, and speaks to those who cannot see it."""
    cell = new_code_cell(f"print({number})\nshow({number})", execution_count=number, id=f"figure-{number}")
    cell.metadata["mystnb"] = {"image": {"alt": ALT}}
    cell.outputs = [
        new_output("stream", name="stdout", text=f"{number}\n"),
        new_output(
            "display_data", data={"image/png": "iVBORw0KGgo=", "text/plain": "<Figure size 700x350 with 1 Axes>"}
        ),
    ]
    return cell


def good_chapter() -> NotebookNode:
    """The smallest notebook that all gates let pass."""
    exercise = new_code_cell(
        f"def area(box):\n    {gates.BEGIN}\n    return box[2] * box[3]\n    {gates.END}",
        execution_count=4,
        id="exercise",
    )
    notebook = new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})
    notebook.cells = [
        new_markdown_cell(
            f"# A chapter\n\n**Objectives.** None.\n\n**Time.** 10 minutes to read, 20 seconds to run\n\n{PROSE}",
            id="top",
        ),
        *[figure_cell(number) for number in (1, 2, 3)],
        new_markdown_cell(
            "## Exercises\n\n```{exercise}\n:label: ex-why\n\nWhy?\n```\n\n"
            "```{solution} ex-why\n:class: dropdown\n\nBecause.\n```",
            id="why",
        ),
        new_markdown_cell("Now in code.", id="in-code"),
        exercise,
        new_code_cell(
            "checks.check_area(area)",
            execution_count=5,
            id="check",
            outputs=[new_output("stream", name="stdout", text="area: correct, took 0.12 s\n")],
        ),
        new_markdown_cell("## Takeaways\n\n- Boxes.\n\n## References", id="end"),
    ]
    return notebook


def set_kernel(notebook: NotebookNode) -> None:
    notebook.metadata["kernelspec"]["name"] = "my-env"


def repeat_id(notebook: NotebookNode) -> None:
    notebook.cells[2]["id"] = notebook.cells[1]["id"]


def never_run(notebook: NotebookNode) -> None:
    notebook.cells[3].execution_count = None


def run_twice(notebook: NotebookNode) -> None:
    notebook.cells[1].execution_count = 9


def show_error(notebook: NotebookNode) -> None:
    notebook.cells[1].outputs.append(new_output("error", ename="ValueError", evalue="no", traceback=[]))


def warn(notebook: NotebookNode) -> None:
    notebook.cells[1].outputs.append(new_output("stream", name="stderr", text="UserWarning: careful"))


def print_text(text: str) -> Callable[[NotebookNode], None]:
    def plant(notebook: NotebookNode) -> None:
        notebook.cells[1].outputs.append(new_output("stream", name="stdout", text=text))

    return plant


def show_mime(mime: str) -> Callable[[NotebookNode], None]:
    def plant(notebook: NotebookNode) -> None:
        notebook.cells[1].outputs.append(new_output("display_data", data={mime: "x"}))

    return plant


def append_code(text: str) -> Callable[[NotebookNode], None]:
    def plant(notebook: NotebookNode) -> None:
        notebook.cells[1].source += "\n" + text

    return plant


def append_prose(text: str) -> Callable[[NotebookNode], None]:
    def plant(notebook: NotebookNode) -> None:
        notebook.cells[-1].source += "\n\n" + text

    return plant


def drop_prose(old: str, new: str = "") -> Callable[[NotebookNode], None]:
    def plant(notebook: NotebookNode) -> None:
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                cell.source = cell.source.replace(old, new)

    return plant


def change_exercise(old: str, new: str) -> Callable[[NotebookNode], None]:
    def plant(notebook: NotebookNode) -> None:
        notebook.cells[6].source = notebook.cells[6].source.replace(old, new)

    return plant


def tag_to_skip(notebook: NotebookNode) -> None:
    notebook.cells[1].metadata["tags"] = ["nbval-ignore-output"]


def drop_alt(notebook: NotebookNode) -> None:
    del notebook.cells[1].metadata["mystnb"]


def short_alt(notebook: NotebookNode) -> None:
    notebook.cells[1].metadata["mystnb"]["image"]["alt"] = "figure 1"


def two_pictures(notebook: NotebookNode) -> None:
    notebook.cells[1].outputs.append(copy.deepcopy(notebook.cells[1].outputs[-1]))


def silent_picture(notebook: NotebookNode) -> None:
    del notebook.cells[1].outputs[0]


def drop_picture(notebook: NotebookNode) -> None:
    del notebook.cells[1].outputs[1]


def drop_check(notebook: NotebookNode) -> None:
    notebook.cells[7].source = "print(area([0, 0, 1, 1]))"


DEFECTS: list[tuple[str, Callable[[NotebookNode], None]]] = [
    ("runs_on_python3", set_kernel),
    ("runs_on_python3", repeat_id),
    ("was_run_in_order", never_run),
    ("was_run_in_order", run_twice),
    ("ran_cleanly", show_error),
    ("ran_cleanly", warn),
    ("outputs_travel", print_text("saved to /" + "home/ada/out.png")),
    ("outputs_travel", print_text("saved to C:\\Users\\ada")),
    ("outputs_travel", print_text("<Thing at 0x7f3a12bc9d50>")),
    ("outputs_travel", print_text("0.12345678901")),
    ("outputs_travel", show_mime("image/svg+xml")),
    ("outputs_travel", show_mime("application/vnd.jupyter.widget-view+json")),
    ("outputs_travel", show_mime("text/html")),
    ("is_not_blindfolded", append_code("!false")),
    ("is_not_blindfolded", append_code("# NBVAL_SKIP")),
    ("is_not_blindfolded", append_code("# NBVAL_IGNORE_OUTPUT")),
    ("is_not_blindfolded", tag_to_skip),
    ("figures_speak", drop_alt),
    ("figures_speak", short_alt),
    ("figures_speak", two_pictures),
    ("figures_speak", append_prose("![plot](plot.png)")),
    ("figures_speak", append_prose("```{figure} plot.png\nA caption.\n```")),
    ("figures_are_held", silent_picture),
    ("has_enough_figures", drop_picture),
    ("cells_are_short", append_code("\n".join("x = 1" for _ in range(gates.LONGEST_CELL)))),
    ("has_chapter_length", append_prose(PROSE * 3)),
    ("has_chapter_length", drop_prose(PROSE, "Short.")),
    ("has_chapter_parts", drop_prose("# A chapter", "A chapter")),
    ("has_chapter_parts", drop_prose("Objectives")),
    ("has_chapter_parts", drop_prose("## Exercises")),
    ("has_chapter_parts", drop_prose("## Takeaways")),
    ("has_chapter_parts", drop_prose("## References")),
    ("states_its_time", drop_prose("minutes", "units")),
    ("states_its_time", drop_prose("**Time.**")),
    ("states_its_time", drop_prose(", 20 seconds to run")),
    ("states_its_time", drop_prose("10 minutes", "11 minutes")),
    ("states_its_time", drop_prose("10 minutes", "15 minutes")),
    ("states_its_time", append_prose(PROSE)),
    ("solution_marks_balance", change_exercise(gates.END, "")),
    ("solution_marks_balance", change_exercise(gates.BEGIN, gates.END)),
    ("solution_marks_balance", change_exercise(gates.BEGIN, "## BEGIN SOLUTION")),
    ("solution_marks_balance", append_prose(gates.BEGIN)),
    ("exercises_are_complete", drop_check),
    ("exercises_are_complete", change_exercise(gates.BEGIN, "")),
    ("exercises_are_complete", drop_prose(":label: ex-why\n")),
    ("exercises_are_complete", drop_prose("{solution} ex-why", "{note}")),
    ("exercises_are_complete", drop_prose(":class: dropdown\n")),
]


@pytest.mark.parametrize("name", gates.GATES)
def test_a_good_chapter_passes(name: str) -> None:
    notebook = good_chapter()
    nbformat.validate(notebook)
    assert gates.GATES[name](notebook) == []


@pytest.mark.parametrize(("name", "plant"), DEFECTS, ids=[f"{name}-{n}" for n, (name, _) in enumerate(DEFECTS)])
def test_a_planted_defect_is_found(name: str, plant: Callable[[NotebookNode], None]) -> None:
    notebook = good_chapter()
    plant(notebook)
    assert notebook != good_chapter(), "the defect was not planted"
    assert gates.GATES[name](notebook)


def test_every_gate_has_a_defect() -> None:
    assert {name for name, _ in DEFECTS} == set(gates.GATES)


def test_words_are_words_of_prose() -> None:
    text = "Two words.\n\n$$\na + b + c\n$$\n\n```python\nignore this\n```\n\n:label: ex\n\nand $x$ more `code`"
    assert gates.count_words(text) == 4 + 2  # a formula and a name in a sentence are read as one word each


def sanitize(root: Path, text: str) -> str:
    """Do to a text what nbval does with the rules of nbval_sanitize.cfg."""
    rules = configparser.RawConfigParser()
    rules.read(root / "tests/book/nbval_sanitize.cfg")
    for section in rules.sections():
        text = re.sub(rules.get(section, "regex"), rules.get(section, "replace"), text, flags=re.DOTALL)
    return text


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("<Thing at 0x7f3a12bc9d50>", "<Thing at 0x55d0aa11bb22>"),
        ("torch 2.14.1+cu130, timm 1.0.31", "torch 2.10.0, timm 1.0.9"),
        ("took 1.23 s", "took 4 s"),
    ],
)
def test_the_sanitizer_hides_what_may_differ(root: Path, one: str, other: str) -> None:
    assert sanitize(root, one) == sanitize(root, other)


@pytest.mark.parametrize(
    "text",
    [
        "AP 0.612 AP50 0.861",
        "tensor([[0.4963, 0.7682], [0.0885, 0.1320]])",
        "torch.Size([2, 300, 10])",
        "seven 0.98 [12.0, 30.5, 48.0, 80.5]",
        "loss 3.2101 after 12 steps",
        "<Figure size 700x350 with 1 Axes>",
    ],
)
def test_the_sanitizer_hides_nothing_else(root: Path, text: str) -> None:
    assert sanitize(root, text) == text
