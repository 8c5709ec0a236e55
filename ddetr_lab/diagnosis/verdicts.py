"""Who names a planted fault: the checks before a training, the trainer itself, or the run's log and scores.

Built in chapter 19.
"""

from __future__ import annotations

from ddetr_lab.diagnosis.overfit import OverfitRun, OverfitTest, prepare
from ddetr_lab.diagnosis.planted_faults import FAULTS
from ddetr_lab.diagnosis.telltales import look_at_batch, look_at_log, look_at_model, look_at_scores, look_inside
from ddetr_lab.training.engine import Engine, NonFiniteError

__all__ = ["before_training", "by_the_trainer", "from_the_run"]

TRIES = 2  # steps that the trainer may take before it is asked whether it saw something


def before_training(test: OverfitTest) -> list[str]:
    """Return what a look at the model and at the batches for training and for scoring finds, before any step."""
    scoring = test.scoring_processor(images=[picture for picture, _ in test.items], return_tensors="pt")
    width = test.model.config.num_labels
    batch = test.make_batch()
    seen = [
        *look_at_model(test.model),
        *look_at_batch(batch, width),
        *look_at_batch(scoring),
        *look_inside(test.model, batch),
    ]
    return [str(suspicion) for suspicion in seen]


def by_the_trainer(name: str) -> list[str]:
    """Return with what error the package's own trainer refuses a fault, if it does.

    What the plain loop swallows is planted in the way that the trainer would meet it: ids without the wider head, and
    the mask of the batch itself.

    Args:
        name: of a fault, or any other text for a healthy run.
    """
    test = prepare(pictures=3)
    if name == "class_ids_off_by_one":
        _shift_ids(test)
    elif name in FAULTS:
        FAULTS[name].plant(test)
    batch = test.make_batch()
    if name == "padding_mask_inverted":
        batch["pixel_mask"] = 1 - batch["pixel_mask"]
    try:
        engine = Engine(test.model, test.recipe.optimization)
        if name == "rate_too_high":
            engine.set_rate(test.optimizer.param_groups[-1]["lr"] / test.recipe.optimization.learning_rate)
        for _ in range(TRIES):
            engine.update([batch])
    except (ValueError, NonFiniteError) as error:
        return [str(error)]
    return []


def _shift_ids(test: OverfitTest) -> None:
    """Count class ids from 1, the last one included, for a head that has no room for it."""
    labels = test.model.config.num_labels
    for _, annotation in test.items:
        for entry in annotation["annotations"]:
            entry["category_id"] = min(entry["category_id"] + 1, labels)
    test.items[0][1]["annotations"][0]["category_id"] = labels  # sooner or later the last class comes


def from_the_run(run: OverfitRun) -> list[str]:
    """Return what a run's log and its scores give away."""
    scores = look_at_scores(run.result.ap50, run.class_blind_ap50, run.curve[-1]["loss"])
    return [str(suspicion) for suspicion in (*look_at_log(run.curve), *scores)]
