"""The subcommand ``ddetr-lab validate``: its arguments, one run, its lines and its JSON.

Built in chapter 18.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

from ddetr_lab.argument_types import positive_int
from ddetr_lab.files import check_writable

__all__ = ["add_validate_arguments", "run_validate"]


def add_validate_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the arguments of ``validate``."""
    parser.description = (
        "Check a COCO data set before training on it: the file, its boxes, and every picture, which is decoded. "
        "Each finding has the picture's id and a remedy. Exit code 1 if there are errors, 0 otherwise."
    )
    parser.add_argument("path", metavar="DIR|FILE", type=Path, help="folder of a COCO data set, or a COCO file")
    parser.add_argument("--images", metavar="DIR", type=Path, help="folder of the pictures, if elsewhere")
    parser.add_argument("--figures", metavar="DIR", type=Path, help="write a contact sheet, class counts, box sizes")
    parser.add_argument("--json", action="store_true", help="print every finding as JSON")
    parser.add_argument("--most", metavar="N", type=positive_int, default=5, help="show N of each kind (default 5)")
    parser.add_argument("--workers", metavar="N", type=positive_int, help="threads (default: one a processor)")


def run_validate(arguments: argparse.Namespace, report: Callable[[str], None]) -> int:
    """Run the check; ``report`` prints a line. Returns 1 if there are errors, else 0."""
    from ddetr_lab.data.validate import Looked, validate_dataset

    if arguments.figures is not None and arguments.path.exists():
        check_writable(arguments.figures / "contact_sheet.png", "--figures")
    looked: list[Looked] = []
    found = validate_dataset(arguments.path, arguments.images, arguments.workers, looked)
    if arguments.json:
        report(json.dumps(found.to_dict(), indent=2))
    else:
        for line in found.lines(arguments.most):
            report(line)
        report(found.summary())
    if arguments.figures is not None:
        from ddetr_lab.data.figures import write_figures

        for path in write_figures(found, looked, arguments.figures):
            if not arguments.json:
                report(f"wrote {path}")
    return 0 if found.ok else 1
