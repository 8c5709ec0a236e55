"""Does a long run keep memory? Train a small detector on pictures of mixed sizes, and print what the process holds.

    python -m tests.faults.memory_growth --steps 500

Every step has another batch size and another picture size, in turn, so that no buffer fits the step after. Printed is
the resident memory every hundred steps, after freed memory was handed back to the system, and the growth over the steps
after a warm-up of 300: until then kernels are prepared for each of the sizes.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import sys
from collections.abc import Callable

import torch

from ddetr_lab import DeformableDetrForObjectDetection
from ddetr_lab.recipe import OptimizationSettings
from ddetr_lab.training.engine import Engine
from ddetr_lab.training.metrics import memory_in_use
from tests.tiny import tiny_config


def mixed_batch(step: int) -> dict[str, object]:
    """Make a batch of one to three pictures, of 64 to 136 pixels, with none to seven objects each."""
    draw = torch.Generator().manual_seed(step)
    count = 1 + step % 3
    height, width = (64 + 8 * int(torch.randint(10, (), generator=draw)) for _ in range(2))
    labels = []
    for _ in range(count):
        objects = int(torch.randint(8, (), generator=draw))
        boxes = 0.1 + 0.4 * torch.rand(objects, 4, generator=draw)
        labels.append({"class_labels": torch.randint(3, (objects,), generator=draw), "boxes": boxes})
    return {
        "pixel_values": torch.randn(count, 3, height, max(width, 80), generator=draw),
        "pixel_mask": torch.ones(count, height, max(width, 80), dtype=torch.long),
        "labels": labels,
    }


def growth(steps: int, report: Callable[[str], object], warm_up: int = 300) -> list[float]:
    """Train, and return how many MB each hundred steps after the warm-up added."""
    torch.manual_seed(0)
    model = DeformableDetrForObjectDetection(tiny_config(auxiliary_loss=True)).train()
    engine = Engine(model, OptimizationSettings(learning_rate=1e-4, ema_decay=0.99))
    held: list[float] = []
    for step in range(1, warm_up + steps + 1):
        engine.update([mixed_batch(step)])
        if step >= warm_up and step % 100 == 0:
            gc.collect()
            if sys.platform == "linux":
                getattr(ctypes.CDLL(None), "malloc_trim", lambda _: 0)(0)
            held.append((memory_in_use(torch.device("cpu")) or 0) / 2**20)
            report(f"step {step}: {held[-1]:.1f} MB")
    return [after - before for before, after in zip(held[:-1], held[1:], strict=True)]


def main() -> None:
    """Read the arguments, train, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=500)
    steps = parser.parse_args().steps
    torch.set_num_threads(1)
    grown = growth(steps, lambda line: print(line, flush=True))
    mean = sum(grown) / max(1, len(grown))
    print(f"growth: {', '.join(f'{value:+.2f}' for value in grown)} MB, {mean:+.2f} MB per 100 steps on average")
    raise SystemExit(1 if mean > 1 else 0)


if __name__ == "__main__":
    main()
