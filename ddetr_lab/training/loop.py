"""One loop for a laptop's CPU, a GPU, and many processes under ``torchrun``.

Built in chapter 16.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ddetr_lab.config import DeformableDetrConfig
from ddetr_lab.data.labels import LabelMap
from ddetr_lab.data.transforms import training_transform
from ddetr_lab.detector import DeformableDetrForObjectDetection
from ddetr_lab.evaluation import EvaluationResult, evaluate
from ddetr_lab.recipe import Recipe
from ddetr_lab.training.batches import BatchOrder, training_batches
from ddetr_lab.training.build import build_model, build_processor, refuse_strips
from ddetr_lab.training.curves import save_curves
from ddetr_lab.training.distributed import Processes, process_group
from ddetr_lab.training.engine import Engine, NonFiniteError, Update
from ddetr_lab.training.folder import RunFolder
from ddetr_lab.training.groups import group_table
from ddetr_lab.training.interrupts import StopRequest
from ddetr_lab.training.metrics import RunLog, Stopwatch, memory_in_use
from ddetr_lab.training.progress import RunProgress, is_due
from ddetr_lab.training.recompute import recomputing
from ddetr_lab.training.resume import resumed_progress
from ddetr_lab.training.schedule import learning_rate_factor
from ddetr_lab.training.sets import common_labels, training_set, validation_set
from ddetr_lab.training.shrink import shrunk
from ddetr_lab.training.snapshot import load_snapshot, random_states, snapshot
from ddetr_lab.training.state import RunState, StateFolder

__all__ = ["TrainingRun", "train"]

LOG_EVERY = 10  # steps between two lines of metrics.jsonl
LARGEST_SEED = 2**63 - 1  # that PyTorch takes


@dataclass
class TrainingRun:
    """What a training run leaves.

    Attributes:
        model: in memory, on the device it trained on; with a moving average, the averaged weights.
        folder: where everything was saved; see ``ddetr_lab.training.folder``.
        steps: updates of the weights.
        seconds: of training, without evaluation.
        result: the scores of the last weights.
        best: AP of the best weights, which lie in ``folder / "best"``; None where AP is undefined.
        is_first: whether this process is the one that writes and prints, of those that trained together.
    """

    model: DeformableDetrForObjectDetection
    folder: Path
    steps: int
    seconds: float
    result: EvaluationResult
    best: float | None = None
    is_first: bool = True


def train(
    recipe: Recipe,
    out: str | Path,
    *,
    steps: int | None = None,
    minutes: float | None = None,
    seed: int | None = None,
    weights: str | Path | None = None,
    device: str | torch.device = "cpu",
    progress: bool = True,
    resume: bool = False,
    overwrite: bool = False,
    report: Callable[[str], object] = lambda line: None,
) -> TrainingRun:
    """Train a recipe's model, save it, and score it.

    ``out`` is filled as ``ddetr_lab.training.folder`` lists. A run that was stopped, or killed, goes on with
    ``resume=True`` as if nothing had happened: on a CPU its weights become the same to the last bit (with ``minutes``
    they depend on the clock).

    Args:
        recipe: what to do.
        out: the folder, made if missing.
        steps: how many steps, instead of the recipe's.
        minutes: stop after so many minutes of training; evaluation does not count. The schedule then runs over time
            as well as over steps, whichever is further, so that rates end where they should in either case.
        seed: of weights, order, scenes and views; by default 0. A run that goes on keeps its own.
        weights: a folder or shipped name to start from, instead of the recipe's; the optimiser starts afresh.
            A run that goes on has its own.
        device: where to train; under ``torchrun`` "cuda" is each process's own GPU.
        progress: show a bar.
        resume: go on with the run in ``out``; without one, begin it.
        overwrite: remove the run in ``out`` and begin anew.
        report: is told, a line at a time, what a reader should see: the groups of parameters, scores on the way.

    Returns:
        A :class:`TrainingRun`.

    Raises:
        ValueError: if steps or minutes are not positive, the seed is out of range, the data are wrong or lie in
            ``out``, or a resumed run was another one.
        FileExistsError: if ``out`` holds a run, without ``resume`` or ``overwrite``; or, with ``resume``, weights
            without a state to go on from.
        BlockingIOError: if another process trains into ``out``.
        FloatingPointError: if a loss or gradient is not finite; the message names the loss, the step and the pictures,
            and the state before that step is in ``out/failed``.
        KeyboardInterrupt: after Ctrl-C or SIGTERM; the state is saved first.
        OSError: if ``out`` cannot be written; what was saved before is still there.
    """
    for name, value in (("steps", steps), ("minutes", minutes)):
        if value is not None and value <= 0:
            raise ValueError(f"{name} = {value}, expected a positive number")
    if seed is not None and not 0 <= seed <= LARGEST_SEED:
        raise ValueError(f"seed = {seed}, expected 0 to 2^63 - 1")
    start = None if weights is None else str(weights)
    with process_group(torch.device(device)) as (processes, own_device), ExitStack() as held:
        folder = RunFolder(out, report)
        processes.on_first(lambda: held.enter_context(folder.held()))
        data = Path(recipe.data.folder) if recipe.data.folder else None
        stored = processes.on_first(lambda: folder.check(resume, overwrite, data))
        if stored is not None:
            done = resumed_progress(stored, recipe, steps, minutes, seed, start)
        else:
            by_epochs = steps is None and recipe.optimization.epochs > 0
            total = 0 if by_epochs else steps or recipe.optimization.steps
            done = RunProgress(seed or 0, total, minutes, weights=start or "")
        config = None if stored is None else DeformableDetrConfig.from_dict(stored.content["config"])
        run = _Run(recipe, done, processes, own_device, folder, report if processes.is_first else _nothing)
        run.build(weights, config)
        if stored is None:
            processes.on_first(lambda: folder.begin(recipe, done.seed, overwrite))
        else:
            processes.on_first(folder.refuse_unwritable)
            run.go_back(stored)
        processes.on_first(run.tell_room)
        run.report(group_table(run.engine.groups, run.model))
        shows = progress and processes.is_first
        run.go(shows)
        return run.finish(shows)


def _nothing(line: str) -> None:
    """Report nothing, as all processes but the first do."""


class _Run:
    """The parts of one run, and the loop over them."""

    def __init__(
        self,
        recipe: Recipe,
        progress: RunProgress,
        processes: Processes,
        device: torch.device,
        folder: RunFolder,
        report: Callable[[str], object],
    ) -> None:
        self.recipe, self.progress, self.processes, self.device = recipe, progress, processes, device
        self.folder, self.report = folder, report

    def build(self, weights: str | Path | None, config: DeformableDetrConfig | None) -> None:
        """Make data, model, processor and optimiser; nothing is written yet."""
        recipe, progress, settings = self.recipe, self.progress, self.recipe.optimization
        self.training, self.validation = training_set(recipe, progress.total, progress.seed), validation_set(recipe)
        self.labels = common_labels(self.training, self.validation)
        self.transform = training_transform(recipe.data.transform)
        self.processor = build_processor(recipe)
        if recipe.data.dataset == "coco":
            refuse_strips(self.processor, self.training, "training")
            refuse_strips(self.processor, self.validation, "validation")
        self.order = BatchOrder(
            self.training, settings.batch_size, progress.seed, recipe.data.bucket, settings.accumulation, self.processes
        )
        if not progress.total:
            progress.total = math.ceil(settings.epochs * self.order.steps_of_epoch)
        torch.manual_seed(progress.seed)
        self.model = build_model(recipe, self.labels, weights, config).to(self.device)
        # Channels side by side in memory, the layout that convolutions are fastest in.
        self.model.model.backbone.to(memory_format=torch.channels_last)
        self.engine = Engine(self.model, settings, self.processes)
        if self.processes.size > 1:  # weights are those of the first process; from here on each draws its own numbers
            torch.manual_seed(progress.seed + self.processes.rank)

    def go_back(self, stored: RunState) -> None:
        """Return to where a state was saved."""
        if LabelMap.from_dict(stored.content["labels"]) != self.labels:
            raise ValueError(f"the run knew the labels {stored.content['labels']['labels']}, the data have others now")
        self.order.check(stored.content["data"])
        load_snapshot(self.engine, stored.tensors, stored.content, self.processes.rank)
        self.report(f"going on after step {self.progress.step} of {self.progress.total}, from {stored.path}")

    def tell_room(self) -> None:
        """Say now if the disk will be too small."""
        sizes = [(parameter.numel(), parameter.requires_grad) for parameter in self.model.parameters()]
        self.folder.tell_room(sum(size for size, _ in sizes), sum(size for size, trains in sizes if trains))

    def go(self, shows: bool) -> None:
        """Train to the end."""
        progress, settings, checkpoint = self.progress, self.recipe.optimization, self.recipe.checkpoint
        saved_step, saved_seconds = progress.step, progress.seconds
        self.model.train()
        with (
            RunLog(self.folder.path, progress, shows, writes=self.processes.is_first) as self.log,
            StopRequest() as stop,
            recomputing(self.model, settings.recompute),
        ):
            watch = Stopwatch(progress.seconds)
            batches = self._batches()
            while progress.share < 1:
                if self._evaluation_is_due():
                    with watch:
                        self.score(shows=False)
                factor = learning_rate_factor(
                    progress.share, settings.warmup_fraction, settings.schedule, settings.drops
                )
                self.engine.set_rate(factor)
                pieces = next(batches)
                if progress.share < settings.shrink_until:
                    pieces = [shrunk(piece, settings.shrink) for piece in pieces]
                update = self._step(pieces)
                # Processes agree on the time, and on whether one of them was asked to stop.
                seconds, stopped = self.processes.largest([watch.seconds, float(bool(stop.name))], self.device)
                progress.step, progress.seconds = progress.step + 1, seconds
                self.log.advance()
                if progress.step % LOG_EVERY == 0 or progress.share >= 1:
                    self._log(update)
                if stopped:
                    self.save()
                    raise KeyboardInterrupt(f"stopped after step {progress.step}; it is saved, --resume goes on")
                if is_due(progress, checkpoint.every_steps, checkpoint.every_minutes, saved_step, saved_seconds):
                    self.save()
                    saved_step, saved_seconds = progress.step, progress.seconds
            if saved_step != progress.step:
                self.save()

    def finish(self, shows: bool) -> TrainingRun:
        """Score the last weights, and write down what came of it all."""
        with RunLog(self.folder.path, self.progress, shows=False, writes=self.processes.is_first) as self.log:
            result = self.score(shows)
        progress = self.progress
        record = {
            "steps": progress.step,
            "seconds": round(progress.seconds, 1),
            "seed": progress.seed,
            "best_ap": progress.best,
            **result.to_dict(),
        }
        self.processes.on_first(lambda: self.folder.write_json("result.json", record))
        self.processes.on_first(lambda: save_curves(self.folder.path))
        if self.engine.average is not None:
            self.engine.average.swap()
        return TrainingRun(
            self.model,
            self.folder.path,
            progress.step,
            progress.seconds,
            result,
            progress.best,
            self.processes.is_first,
        )

    def score(self, shows: bool) -> EvaluationResult:
        """Score the present weights (or their average) on the validation pictures; keep them if they are the best."""
        progress, evaluation = self.progress, self.recipe.evaluation
        with self._averaged():
            result = evaluate(
                self.model,
                self.processor,
                self.validation,
                batch_size=evaluation.batch_size,
                device=self.device,
                progress=shows,
                over_ranks=True,
            )
            progress.evaluated_step, progress.evaluated_seconds = progress.step, progress.seconds
            if not math.isnan(result.ap) and (progress.best is None or result.ap > progress.best):
                progress.best = result.ap
                scores = {"steps": progress.step, "seed": progress.seed, **result.to_dict()}
                self.processes.on_first(
                    lambda: self.folder.write_weights(self.model, self.processor, self.labels, best=scores)
                )
        self.log.add_evaluation(result.to_dict())
        self.report(f"step {progress.step}: {result.line()}")
        return result

    def save(self) -> None:
        """Write a state to go on from, and the weights to use."""
        everyones = self.processes.gather(random_states(self.device))

        def write() -> None:
            tensors, content = snapshot(self.engine, everyones)
            self.folder.states.save(tensors, content | self._circumstances())
            with self._averaged():
                self.folder.write_weights(self.model, self.processor, self.labels)

        self.processes.on_first(write)

    def _circumstances(self) -> dict[str, Any]:
        return {
            "progress": asdict(self.progress),
            "recipe": self.recipe.to_dict(),
            "config": self.model.config.to_dict(),
            "labels": self.labels.to_dict(),
            "data": self.order.state_dict(self.progress.step),
        }

    def _averaged(self) -> Any:
        return nullcontext() if self.engine.average is None else self.engine.average.in_place()

    def _batches(self) -> Iterator[list[dict[str, Any]]]:
        recipe = self.recipe
        return training_batches(
            self.training,
            self.order,
            build_processor(recipe, resizes=not self.transform.sets_size),
            self.transform,
            self.progress.seed,
            range(self.progress.step, self.progress.total),
            recipe.data.workers,
            pin_memory=self.device.type == "cuda",
        )

    def _evaluation_is_due(self) -> bool:
        progress, evaluation = self.progress, self.recipe.evaluation
        return is_due(
            progress,
            evaluation.every_steps,
            evaluation.every_minutes,
            progress.evaluated_step,
            progress.evaluated_seconds,
        )

    def _step(self, pieces: list[dict[str, Any]]) -> Update:
        """Take one step; if it fails, keep the state before it, and say which step it was."""
        before = random_states(self.device)
        try:
            return self.engine.update(pieces)
        except NonFiniteError as error:
            raise FloatingPointError(
                f"step {self.progress.step}: {error}. Lower the learning rate, or look at these pictures' boxes; "
                f"{self._save_failure(error, before)}"
            ) from error
        except ValueError as error:
            raise ValueError(f"step {self.progress.step}: {error}") from error

    def _save_failure(self, error: NonFiniteError, before: dict[str, Any]) -> str:
        """Save the state before a failed step apart from the good ones, and return a sentence on it."""
        rank = "" if self.processes.is_first else f"-rank{self.processes.rank}"
        tensors, content = snapshot(self.engine, [before], finite=False)
        what = {"step": self.progress.step, "what": error.what, "pictures": error.pictures}
        try:
            path = StateFolder(self.folder.path / f"failed{rank}").save(tensors, content | self._circumstances())
            self.folder.write_json(f"failure{rank}.json", what)
        except OSError as problem:
            return f"the state before this step could not be saved: {problem}"
        return f"the state before this step is in {path}"

    def _log(self, update: Update) -> None:
        parts = {name: value for name, value in update.losses.items() if name[-1].isalpha()}
        values = torch.stack([update.loss, update.grad_norm, *parts.values()]).float()
        loss, norm, *rest = self.processes.mean(values).tolist()
        memory = memory_in_use(self.device)
        self.log.add_step(
            {
                "loss": loss,
                "grad_norm": norm,
                "learning_rate": self.engine.rate,
                "memory_mb": None if memory is None else round(memory / 2**20, 1),
                **dict(zip(parts, rest, strict=True)),
            }
        )
