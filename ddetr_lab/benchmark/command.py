"""The subcommand itself: its arguments, one run, its table and its JSON.

Importing this file loads nothing heavy: the command line builds its parser from it for every command.

Used in chapter 9.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ddetr_lab.argument_types import positive_int
from ddetr_lab.benchmark import fine_tuning_command, learning_command
from ddetr_lab.files import check_writable

if TYPE_CHECKING:
    from ddetr_lab.benchmark.contest import Plan
    from ddetr_lab.benchmark.report import Case, Report

__all__ = ["BENCHMARKS", "add_arguments", "run"]

# Subcommand: (help, samples of each contender, whether it also runs on a GPU)
BENCHMARKS = {
    "op": ("deformable attention alone: encoder, decoder and scattered samples, forward and backward", 9, True),
    "model": ("one 800 x 1066 picture through the whole ResNet-50 detector", 5, True),
    "train-step": ("forward, loss, backward and AdamW on two pictures of 480 x 640", 5, True),
    "processor": ("one 640 x 480 picture to the network's 1066 x 800 pixels", 25, False),
    "evaluate": ("COCO's twelve numbers of 500 pictures", 3, False),
}
COUNTED = ("op", "model", "train-step")  # whose work is counted, and set against the machine's ceilings
QUICK_REPEATS = 3
DTYPES = ("float32", "float64", "float16", "bfloat16")

DESCRIPTION = (
    "Time this package beside the peers that are installed, alternately, in one process. Contenders that do not give "
    "the same numbers are reported and not timed. Printed are medians, quartiles, ratios and peak memory; a sample is "
    "one call, or the mean of as many as last 20 ms; every contender runs before it is timed, and the order moves on "
    "by one place from round to round."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the benchmarks as subcommands.

    Args:
        parser: of ``ddetr-lab benchmark``.
    """
    parser.description = DESCRIPTION
    kinds = parser.add_subparsers(dest="benchmark", required=True, metavar="WHAT")
    for name, (text, repeats, on_gpu) in BENCHMARKS.items():
        one = kinds.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}. {DESCRIPTION}")
        one.add_argument(
            "--against", nargs="*", metavar="PEER", help="only these peers, or none (default: all that are installed)"
        )
        one.add_argument("--quick", action="store_true", help="small sizes and few rounds: does everything run?")
        one.add_argument(
            "--repeats",
            type=positive_int,
            metavar="N",
            help=f"rounds, that is, samples of each contender, of which the median is printed (default {repeats})",
        )
        one.add_argument("--threads", type=positive_int, metavar="N", help="CPU threads (default: PyTorch's)")
        one.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured here")
        if on_gpu:
            one.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
        if name in COUNTED:
            one.add_argument(
                "--keep-memory",
                action="store_true",
                help="let freed memory be used again, instead of fetching each large tensor's from the system (glibc)",
            )
        if name == "op":
            one.add_argument("--dtype", choices=DTYPES, default="float32", help="of the values (default float32)")
    learning = kinds.add_parser(learning_command.NAME, help=learning_command.HELP)
    learning_command.add_learning_arguments(learning)
    tuning = kinds.add_parser(fine_tuning_command.NAME, help=fine_tuning_command.HELP)
    fine_tuning_command.add_fine_tuning_arguments(tuning)
    page = kinds.add_parser("page", help="turn JSON files into the book's page")
    page.add_argument("reports", nargs="+", type=Path, metavar="FILE", help="what --json wrote")
    page.add_argument("--out", type=Path, metavar="MD", help="write the page here instead of printing it")


def run(
    arguments: argparse.Namespace, words: Sequence[str], usable: Callable[[str], str], report: Callable[[str], None]
) -> int:
    """Run one subcommand.

    Args:
        arguments: parsed by what :func:`add_arguments` added.
        words: the command line as it was typed, without the program, for the record.
        usable: returns a device's name, or raises if there is no such device.
        report: prints a line.
    """
    if arguments.benchmark == "page":
        return _page(arguments, report)
    if arguments.json is not None:
        check_writable(arguments.json, "--json")
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(arguments.threads or threads)
    try:
        device = usable(getattr(arguments, "device", "cpu"))
        if arguments.benchmark == learning_command.NAME:
            return learning_command.run_learning(arguments, words, device, report)
        if arguments.benchmark == fine_tuning_command.NAME:
            return fine_tuning_command.run_fine_tuning(arguments, words, device, report)
        result = _measured(arguments, words, device, report)
    finally:
        torch.set_num_threads(threads)
    if arguments.json is not None:
        from ddetr_lab.benchmark.report import write_report

        write_report(result, arguments.json)
    return 0


def _page(arguments: argparse.Namespace, report: Callable[[str], None]) -> int:
    from ddetr_lab.benchmark.page import render_page
    from ddetr_lab.benchmark.report import read_report

    page = render_page([read_report(path) for path in arguments.reports])
    if arguments.out is None:
        report(page.rstrip("\n"))
    else:
        arguments.out.write_text(page, encoding="utf-8")
    return 0


def _measured(
    arguments: argparse.Namespace, words: Sequence[str], device: str, report: Callable[[str], None]
) -> Report:
    from ddetr_lab.benchmark import peers
    from ddetr_lab.benchmark.ceilings import measure_ceilings
    from ddetr_lab.benchmark.contest import Plan
    from ddetr_lab.benchmark.machine import describe_machine, describe_versions, today
    from ddetr_lab.benchmark.memory import freed_memory_kept
    from ddetr_lab.benchmark.report import Report
    from ddetr_lab.benchmark.tables import HEADINGS, case_rows, ceiling_rows, share_line, text_table

    name = arguments.benchmark
    against = tuple(peer.distribution for peer in peers.choose(name, arguments.against, device))
    repeats = arguments.repeats or (QUICK_REPEATS if arguments.quick else BENCHMARKS[name][1])
    missing = peers.missing_note(name, device) if arguments.against is None else ""
    kept = getattr(arguments, "keep_memory", False)
    machine = describe_machine(device)
    head = Report(
        benchmark=name,
        command=shlex.join(["ddetr-lab", *words]),
        date=today(),
        machine=machine,
        versions=describe_versions([*against, "torchvision", "timm", "pillow"]),
        settings={"repeats": repeats, "quick": arguments.quick, "device": device, "keep_memory": kept},
        cases=(),
        ceilings=measure_ceilings(repeats, device, 1 / 16 if arguments.quick else 1.0) if name in COUNTED else {},
        notes=(f"{missing}.",) if missing else (),
    )
    report(f"{head.date}  {machine.get('gpu', machine['cpu'])}, {machine['threads']} threads, {repeats} samples each")
    if head.ceilings:
        report(text_table(("ceiling", ""), ceiling_rows(head)))

    def show(case: Case) -> None:
        report(f"\n{case.name}: {case.what}")
        report(text_table(HEADINGS, case_rows(case)))
        for row in case.rows:
            if row.note:
                report(f"  {row.contender}: {row.note}")
        if line := share_line(head, case):
            report(f"  {line}")

    plan = Plan(arguments.quick, repeats, against, device, show)
    with freed_memory_kept() if kept else contextlib.nullcontext():
        cases = _cases(name, plan, getattr(arguments, "dtype", "float32"))
    for note in head.notes:
        report(f"\n{note}")
    return dataclasses.replace(head, cases=tuple(cases))


def _cases(name: str, plan: Plan, dtype: str) -> list[Case]:
    """Hand the plan to the benchmark; each is imported only when it runs."""
    if name == "op":
        import torch

        from ddetr_lab.benchmark.op import op_cases

        return op_cases(plan, getattr(torch, dtype))
    if name == "model":
        from ddetr_lab.benchmark.model import model_cases

        return model_cases(plan)
    if name == "train-step":
        from ddetr_lab.benchmark.train_step import train_step_cases

        return train_step_cases(plan)
    if name == "processor":
        from ddetr_lab.benchmark.processor import processor_cases

        return processor_cases(plan)
    from ddetr_lab.benchmark.evaluate import evaluate_cases

    return evaluate_cases(plan)
