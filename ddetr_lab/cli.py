"""The command ``ddetr-lab``: doctor, build-ops, detect, train, evaluate, validate, diagnose, benchmark, classroom.

Built in chapter 0.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ddetr_lab.argument_types import probability
from ddetr_lab.benchmark import command as benchmark_command
from ddetr_lab.classroom import command as classroom_command
from ddetr_lab.data import command as data_command
from ddetr_lab.diagnosis import command as diagnosis_command
from ddetr_lab.files import check_writable
from ddetr_lab.training import command as training_command

__all__ = ["main"]

# What a wrong input or a full disk raises: told in one line. Anything else is a defect of ours and keeps its traceback.
EXPECTED_ERRORS = (ValueError, TypeError, KeyError, OSError, FloatingPointError, ImportError)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ddetr-lab",
        description="Deformable DETR from the book: detect, train, evaluate, and look after the set-up.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    commands.add_parser("doctor", help="say what is installed, which operator path runs and why, and what to do")

    build = commands.add_parser("build-ops", help="compile the operator's kernels, once")
    build.add_argument("--force", action="store_true", help="compile even if the library is there")
    cuda = build.add_mutually_exclusive_group()
    cuda.add_argument("--no-cuda", action="store_true", help="compile for the CPU alone, even if there is a GPU")
    cuda.add_argument("--cuda-arch", metavar="LIST", help="GPUs to compile for, such as 80,90 (default: those here)")

    detect = commands.add_parser("detect", help="find objects in a picture")
    detect.add_argument("picture", metavar="PICTURE", help="any file that Pillow reads")
    detect.add_argument("--out", metavar="PNG", type=Path, help="write the picture with its detections here")
    detect.add_argument("--json", action="store_true", help="print a JSON list of label, score and box in pixels")
    detect.add_argument("--threshold", type=probability, default=0.5, help="show scores above this (default 0.5)")
    detect.add_argument("--weights", default="digits", metavar="DIR", help="shipped name, folder or hub name")

    train = commands.add_parser("train", help="train a recipe or on a folder of pictures, save the weights, score them")
    training_command.add_train_arguments(train)

    evaluate = commands.add_parser("evaluate", help="score weights by COCO's average precision")
    training_command.add_evaluate_arguments(evaluate)

    validate = commands.add_parser("validate", help="look over a COCO data set before training on it")
    data_command.add_validate_arguments(validate)

    diagnose = commands.add_parser("diagnose", help="does it learn at all? eight pictures by heart; faults, planted")
    diagnosis_command.add_diagnose_arguments(diagnose)

    benchmark = commands.add_parser("benchmark", help="time this package beside its peers, alternately, in one run")
    benchmark_command.add_arguments(benchmark)

    classroom = commands.add_parser("classroom", help="for teachers: write a class set, grade what comes back")
    classroom_command.add_arguments(classroom)
    return parser


def _device(name: str | None) -> str:
    import torch

    if name is not None:
        try:
            torch.empty(0, device=name)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"--device {name} is not usable here: {str(error).splitlines()[0]}") from error
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


def detect_picture(picture: Any, weights: str, threshold: float) -> list[dict[str, Any]]:
    """Run a detector on one RGB picture.

    Args:
        picture: a Pillow image.
        weights: a shipped name, a folder or a hub name.
        threshold: keep scores above this.

    Returns:
        Dicts of ``label``, ``score`` and ``box`` [x0, y0, x1, y1] in pixels of the picture, best first.
    """
    return _detections(picture, weights, threshold)[0]


def _detections(picture: Any, weights: str, threshold: float) -> tuple[list[dict[str, Any]], float]:
    """Return what :func:`detect_picture` does, and the best score of all, kept or not."""
    import torch

    from ddetr_lab import DeformableDetrForObjectDetection, DeformableDetrImageProcessor

    model = DeformableDetrForObjectDetection.from_pretrained(weights).eval()
    processor: Any = DeformableDetrImageProcessor.from_pretrained(weights)
    inputs = processor(picture, return_tensors="pt")
    with torch.inference_mode():
        outputs = model(**inputs)
    (found,) = processor.post_process_object_detection(
        outputs, threshold=0.0, target_sizes=[(picture.height, picture.width)]
    )
    names = model.config.id2label
    kept = [
        {"label": names[label], "score": round(score, 4), "box": [round(side, 2) for side in box]}
        for score, label, box in zip(
            found["scores"].tolist(), found["labels"].tolist(), found["boxes"].tolist(), strict=True
        )
        if score > threshold
    ]
    return kept, max(found["scores"].tolist(), default=0.0)


def _detect(arguments: argparse.Namespace) -> int:
    from ddetr_lab.image_inputs import load_image

    picture = load_image(arguments.picture)
    if arguments.out is not None:
        from PIL import Image

        if arguments.out.suffix.lower() not in Image.registered_extensions():
            raise ValueError(f"--out {arguments.out} has no ending of a picture: name a file that ends in .png or .jpg")
        check_writable(arguments.out, "--out")
        if arguments.out.exists() and arguments.out.samefile(arguments.picture):
            raise ValueError(f"--out {arguments.out} is the picture itself: name another file")
    found, best = _detections(picture, arguments.weights, arguments.threshold)
    if arguments.out is not None:
        from ddetr_lab.visualization import render_detections

        render_detections(picture, found).save(arguments.out)
    if arguments.json:
        print(json.dumps(found))
        return 0
    for one in found:
        print(f"{one['label']}  {one['score']:.2f}  " + " ".join(f"{side:.1f}" for side in one["box"]))
    hint = "" if found else f" (the best score is {best:.2f}: --threshold shows more)"
    print(f"{len(found)} found above {arguments.threshold}{hint}" + (f"; see {arguments.out}" if arguments.out else ""))
    return 0


def _train(arguments: argparse.Namespace) -> int:
    return training_command.train_command(arguments, _device, print)


def _evaluate(arguments: argparse.Namespace) -> int:
    return training_command.evaluate_command(arguments, _device, print)


def _validate(arguments: argparse.Namespace) -> int:
    return data_command.run_validate(arguments, print)


def _benchmark(arguments: argparse.Namespace) -> int:
    return benchmark_command.run(arguments, arguments.words, _device, print)


def _diagnose(arguments: argparse.Namespace) -> int:
    return diagnosis_command.diagnose_command(arguments, arguments.words, print)


def _classroom(arguments: argparse.Namespace) -> int:
    return classroom_command.run(arguments, print)


def _build_ops(arguments: argparse.Namespace) -> int:
    from ddetr_lab.ops.build import build_library
    from ddetr_lab.ops.cuda_toolkit import parse_architectures

    architectures: Sequence[str] | None = () if arguments.no_cuda else None
    if arguments.cuda_arch is not None:
        architectures = parse_architectures(arguments.cuda_arch)
    started = time.perf_counter()
    library = build_library(force=arguments.force, report=print, architectures=architectures)
    print(f"{library} ({time.perf_counter() - started:.1f} s)")
    return 0


def _doctor(_: argparse.Namespace) -> int:
    from ddetr_lab.doctor import report

    return report()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0 done, 1 failed with a message, 2 wrong usage, 130 interrupted."""
    arguments = _parser().parse_args(argv)
    arguments.words = list(sys.argv[1:] if argv is None else argv)
    commands = {
        "doctor": _doctor,
        "build-ops": _build_ops,
        "detect": _detect,
        "train": _train,
        "evaluate": _evaluate,
        "diagnose": _diagnose,
        "validate": _validate,
        "benchmark": _benchmark,
        "classroom": _classroom,
    }
    try:
        return commands[arguments.command](arguments)
    except KeyboardInterrupt as stopped:
        print(f"ddetr-lab: interrupted {stopped}".rstrip(), file=sys.stderr)
        return 130
    except EXPECTED_ERRORS as error:
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"ddetr-lab {arguments.command}: {message}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
