"""Kill a process at random moments while it saves run states, again and again, and look whether a good one is left.

    python -m tests.faults.kill_while_saving --kills 200

Each child is forked from this process, saves states as fast as it can into one and the same folder, and is killed with
SIGKILL after a random time. Then the folder is read as a run that goes on would read it: the newest whole state must
be one that a child wrote, tensor for tensor, and no older than the one that was there before.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from ddetr_lab.training.state import StateFolder


@dataclass
class Tally:
    """What was seen."""

    kills: int = 0
    unfinished: int = 0  # kills that left a half-written file behind
    passed_over: int = 0  # states that loading found damaged
    lost: int = 0  # times that no good state was left, or an older one than before


def tensors(number: int) -> dict[str, torch.Tensor]:
    """Make tensors that belong to one number and no other; large enough that writing takes a while."""
    return {"weights": torch.full((20_000,), float(number)), "step": torch.tensor(number)}


def kill_while_saving(kills: int, folder: Path, seed: int = 0, longest: float = 0.03) -> Tally:
    """Do it.

    Args:
        kills: how often.
        folder: for the states.
        seed: of the random moments.
        longest: seconds that a child may live after its first save has begun.
    """
    moments, tally = random.Random(seed), Tally()
    StateFolder(folder).save(tensors(0), {"number": 0})
    newest = 0
    for _ in range(kills):
        child = os.fork()
        if child == 0:
            _save_for_ever(folder, newest)
        time.sleep(moments.uniform(0, longest))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        tally.kills += 1
        tally.unfinished += any(entry.name.endswith(".part") for entry in folder.iterdir())
        complaints: list[str] = []
        try:
            state = StateFolder(folder, complaints.append).load()
        except (ValueError, OSError):
            tally.lost += 1
            continue
        number = state.content["number"]
        whole = all(torch.equal(state.tensors[name], value) for name, value in tensors(number).items())
        tally.lost += not whole or number < newest
        tally.passed_over += len(complaints)
        newest = max(newest, number)
    return tally


def _save_for_ever(folder: Path, number: int) -> None:
    try:
        states = StateFolder(folder)
        while True:
            number += 1
            states.save(tensors(number), {"number": number})
    finally:
        os._exit(1)  # whatever happens, a child never returns into its parent's code


def main() -> None:
    """Read the arguments, kill, and print the tally."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        tally = kill_while_saving(arguments.kills, Path(folder), arguments.seed)
    print(
        f"{tally.kills} kills, {tally.unfinished} left an unfinished file, {tally.passed_over} states passed over as "
        f"damaged, {tally.lost} without a good state"
    )
    raise SystemExit(1 if tally.lost else 0)


if __name__ == "__main__":
    main()
