"""Every planted fault of `make fault-check` still finds its line, and a check that misses a fault says so."""

import ast
from pathlib import Path

import pytest

from tests.book import faults
from tests.book.fault_list import FAULTS, Fault
from tests.book.faults import notebook_of
from tests.conftest import ROOT


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.says)
def test_a_fault_finds_its_line_and_leaves_code(fault: Fault) -> None:
    source = (ROOT / "ddetr_lab" / fault.path).read_text(encoding="utf-8")
    broken = fault.apply(source)
    assert ast.dump(ast.parse(broken)) != ast.dump(ast.parse(source))
    assert fault.chapters and all(notebook_of(chapter).is_file() for chapter in fault.chapters)


def test_there_are_many_faults_and_most_chapters_face_one() -> None:
    assert len({fault.says for fault in FAULTS}) == len(FAULTS) >= 12
    faced = {chapter for fault in FAULTS for chapter in fault.chapters}
    assert faced >= {2, 3, 4, 5, 6, 10, 11, 13, 14, 15}


@pytest.mark.parametrize("old", ["not there", "import"])
def test_a_fault_whose_line_has_changed_is_refused(old: str) -> None:
    with pytest.raises(ValueError, match="expected once"):
        Fault("a test", "boxes.py", old, "", (0,)).apply("import ast\nimport re\n")


@pytest.mark.parametrize(("cell", "fine"), [("some-cell", True), (None, False)])
def test_a_fault_that_nothing_notices_fails_the_check(
    cell: str | None, fine: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for nbval: green without a fault; with one, red or not."""
    fault = FAULTS[0]
    original = (ROOT / "ddetr_lab" / fault.path).read_text(encoding="utf-8")

    def run(folder: Path, notebook: Path) -> str | None:
        return cell if (folder / "ddetr_lab" / fault.path).read_text(encoding="utf-8") != original else None

    monkeypatch.setattr(faults, "first_red_cell", run)
    lines: list[str] = []
    assert faults.check([fault], False, lines.append) == fine
    assert ("some-cell" in "\n".join(lines)) == fine
    assert (ROOT / "ddetr_lab" / fault.path).read_text(encoding="utf-8") == original


def test_a_red_control_fails_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "first_red_cell", lambda folder, notebook: "some-cell")
    assert not faults.check([], False, lambda line: None)
