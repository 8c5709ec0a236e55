"""Calls the compiled operators with random arguments, good and bad, and compares a sample of them with exact results.

    python -m tests.ops.fuzz --calls 100000

Meant for a library that was built with sanitizers (``make sanitize``): those end the process at the first read or write
outside a tensor, and at the first overflow. Without them it still finds wrong results and bad calls that go through.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter

import torch

from ddetr_lab.ops.native import native_problem
from tests.ops.fuzz_fused import FUSED_NAMES, FusedProblem, draw_fused, good_fused_call
from tests.ops.fuzz_pictures import bad_picture_call, draw_picture, good_picture_call
from tests.ops.fuzz_plain import Finding, bad_call, draw_problem, good_call
from tests.ops.problems import NAMES


def main() -> int:
    """Make the calls, report what was done, and return 1 if there was a finding."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=100_000, help="calls of an operator, good and bad")
    parser.add_argument("--check-every", type=int, default=50, help="compare every so many-th problem")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if native_problem() is not None:
        print(native_problem())
        return 1
    torch.set_num_threads(1)
    count: Counter[str] = Counter()
    worst = dict.fromkeys((*NAMES, *(f"fused {name}" for name in FUSED_NAMES)), 0.0)
    started = time.monotonic()
    number = options.seed * 1_000_000_007
    while count["calls"] < options.calls:
        number += 1
        chooser = random.Random(number)
        torch.default_generator.manual_seed(number)  # torch.manual_seed notes a traceback for every GPU: 2 ms
        if number % 5 == 1:  # what is compared are multiples of --check-every
            image = draw_picture(chooser)
            bad = chooser.random() < 0.15
            try:
                bad_picture_call(image, chooser) if bad else good_picture_call(*image)
            except Finding as finding:
                print(f"finding in picture {number}: {finding}")
                return 1
            count.update(calls=1, pictures=1, good=not bad, bad=bad)
            continue
        plain = draw_problem(chooser)
        check = number % options.check_every == 0
        fused = chooser.random() < 0.5
        problem = draw_fused(plain, chooser, check) if fused else plain
        try:
            if chooser.random() < 0.15:
                if isinstance(problem, FusedProblem):
                    bad_call("ms_deform_attn_fused", problem.inputs, chooser)
                else:
                    tensors = (problem.value, *problem.level_tensors, problem.locations, problem.weights)
                    bad_call("ms_deform_attn", (*tensors, problem.grad_output), chooser)
                count.update(calls=1, bad=1)
            else:
                errors = good_fused_call(problem, check) if fused else good_call(problem, check)
                for name, units in errors.items():
                    worst[name] = max(worst[name], units)
                count.update(calls=2, good=2, fused=2 * fused, compared=2 * check)
        except Finding as finding:
            print(f"finding in problem {number}: {finding}\n{problem}")
            return 1
    print(
        f"{count['calls']} calls in {time.monotonic() - started:.0f} s: {count['good']} good, "
        f"{count['fused']} of them fused, {count['compared']} compared, {count['pictures']} pictures, "
        f"{count['bad']} bad and refused"
    )
    print("largest errors: " + ", ".join(f"{name} {units:.2f} eps" for name, units in worst.items()))
    print("no finding")
    return 0


if __name__ == "__main__":
    sys.exit(main())
