"""``python -m tests.classroom.points TEACHER.csv STUDENT.csv``: do solutions earn everything, stubs nothing?

Prints a table by notebook, with the number of wrong answers that the tests hold against each chapter's checks.
"""

import csv
import importlib
import sys
from pathlib import Path


def totals(path: Path) -> dict[str, tuple[int, int]]:
    """Points and most points of each notebook in a table of grades."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = [row for row in csv.DictReader(file) if row["exercise"] == "total" and row["notebook"] != "all"]
    return {row["notebook"]: (int(row["points"]), int(row["max"])) for row in rows}


def wrong_answers(chapter: str) -> tuple[int, int]:
    """How many wrong answers the tests of a chapter's checks have, and the fewest for one check."""
    module = importlib.import_module(f"tests.checks.test_chapter{chapter}")
    each = [sum(other is check for other, _, _ in module.WRONG) for check, _ in module.RIGHT]
    return len(module.WRONG), min(each)


def main(teacher: Path, student: Path) -> int:
    """Print the table; return 1 unless every notebook is as it should be."""
    solved, blank = totals(teacher), totals(student)
    right = solved.keys() == blank.keys()
    print(f"{'notebook':36} exercises  solutions  stubs  wrong answers  fewest for a check")
    for name in solved:
        (points, most), (given, _) = solved[name], blank.get(name, (0, 0))
        wrong, fewest = wrong_answers(name[:2])
        right &= points == most > 0 and given == 0 and fewest >= 3
        print(f"{name:36} {most:9}  {points:9}  {given:5}  {wrong:13}  {fewest:18}")
    columns = zip(*solved.values(), strict=True)
    points, most = map(sum, columns)
    given, wrong = sum(given for given, _ in blank.values()), sum(wrong_answers(name[:2])[0] for name in solved)
    print(f"{'all':36} {most:9}  {points:9}  {given:5}  {wrong:13}")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
