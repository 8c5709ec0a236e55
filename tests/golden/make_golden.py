"""Write the golden files from transformers 4.34.0. Run in the environment that README.md describes, never in tests.

python tests/golden/make_golden.py                  all files
python tests/golden/make_golden.py levels4 ...      these model cases only
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
import transformers
from safetensors import safe_open
from torch import nn
from transformers import (
    DeformableDetrConfig,
    DeformableDetrForObjectDetection,
    DeformableDetrImageProcessor,
    DeformableDetrModel,
)
from transformers.models.deformable_detr.modeling_deformable_detr import (
    DeformableDetrHungarianMatcher,
    DeformableDetrLoss,
    DeformableDetrObjectDetectionOutput,
)

from tests.golden.cases import MODEL_CASES, ModelCase
from tests.golden.fingerprints import decompose_all
from tests.golden.loss_cases import CONFIG_FILES, LOSS_CASES, PROCESSOR_FILES, make_predictions, make_targets
from tests.golden.processor_cases import (
    POST_PROCESS_CASES,
    PROCESSOR_CASES,
    make_raw_outputs,
    make_target_sizes,
    record_processor,
    write_panoptic_masks,
)
from tests.golden.recording import Recording, describe_run, prepare, record, tuple_layout
from tests.golden.storage import DATA, shape_text, write_arrays, write_facts

EXPECTED_VERSION = "4.34.0"
# Two proposals closer than this could change places with the order of a sum.
SMALLEST_GAP = 1e-4
# A gradient that moves further than this when all pixels move by BRIGHTER lies on a kink: a sample on the border of
# two cells, or a ReLU at zero. Which side it falls on would depend on the processor.
BRIGHTER = 4e-6
LARGEST_JUMP = 2e-5

log = logging.getLogger("make_golden")


def build(case: ModelCase) -> nn.Module:
    """Construct the reference's model of a case.

    Its ResNet from ``backbone_config`` is frozen as a whole, because the names it looks for do not exist; stages 2 to 4
    are unfrozen here, as they are for a timm backbone, so that their gradients can be compared.
    """
    config = DeformableDetrConfig(**case.full_config)
    model = (DeformableDetrModel if case.bare else DeformableDetrForObjectDetection)(config)
    if not config.use_timm_backbone:
        for name, parameter in model.named_parameters():
            if any(f"encoder.stages.{stage}." in name for stage in (1, 2, 3)):
                parameter.requires_grad_(True)
    return model


def check_proposals(case: ModelCase, outputs: dict[str, torch.Tensor]) -> None:
    """Refuse a two-stage case whose choice of proposals, or whose matching of them, hangs on rounding.

    Padded cells and the picture's rim share one score and one box: neither may be among the chosen.
    """
    if "enc_outputs_class" not in outputs:
        return
    count = case.full_config["two_stage_num_proposals"]
    scores, order = outputs["enc_outputs_class"][..., 0].sort(dim=1, descending=True)
    gap = (scores[:, :count] - scores[:, 1 : count + 1]).min().item()
    usable = outputs["enc_outputs_coord_logits"].isfinite().all(-1).gather(1, order[:, :count]).all()
    if gap < SMALLEST_GAP or not usable:
        raise RuntimeError(
            f"{case.name}: smallest gap between proposals {gap:.1e}, all usable: {bool(usable)}; change seed"
        )


def check_gradients(case: ModelCase, recording: Recording) -> None:
    """Refuse a case whose gradients jump with a rounding error."""
    if case.targets is None:
        return
    double = record(build(case), case, torch.float64, add_total=True)
    nudged = [
        record(build(case), case, torch.float64, add_total=True, brightness=step).gradients
        for step in (-BRIGHTER, BRIGHTER)
    ]
    jump = max(
        (other[name].double() - wanted).abs().max().item()
        for other in (recording.gradients, *nudged)
        for name, wanted in double.gradients.items()
    )
    if jump > LARGEST_JUMP:
        raise RuntimeError(f"{case.name}: a gradient jumps by {jump:.1e} with rounding; change seed")


def layouts(model: nn.Module, case: ModelCase) -> dict[str, list[str]]:
    """Return the order of fields in tuples, with and without labels and attentions, wherever the reference has any."""
    inputs = prepare(model, case, torch.float32)
    found = {}
    for with_labels in (False, True):
        broken = case.full_config.get("auxiliary_loss") or case.full_config.get("two_stage")
        if with_labels and (case.targets is None or broken):
            continue
        kwargs = inputs if with_labels else {key: value for key, value in inputs.items() if key != "labels"}
        for everything in (False, True):
            kwargs = {**kwargs, "output_attentions": everything, "output_hidden_states": everything}
            with torch.no_grad():
                named, plain = model(**kwargs), model(**kwargs, return_dict=False)
            found[describe_run(with_labels, everything)] = tuple_layout(named, plain)
    return found


def saved_files(model: nn.Module) -> dict[str, Any]:
    """Return the names and metadata inside the written model file, and the text of the configuration beside it."""
    with tempfile.TemporaryDirectory() as folder:
        model.float().save_pretrained(folder, safe_serialization=True)
        with safe_open(Path(folder) / "model.safetensors", framework="pt") as file:
            keys, metadata = sorted(file.keys()), file.metadata()
        return {"keys": keys, "metadata": metadata, "config": (Path(folder) / "config.json").read_text()}


def store(name: str, recording: Recording) -> int:
    """Write the numbers of a run and return how many bytes they take."""
    write_arrays(name, recording.arrays())
    return (DATA / f"{name}.safetensors").stat().st_size


def make_model_case(case: ModelCase) -> None:
    """Write the files of one model case."""
    model = build(case)
    recording = record(model, case, add_total=True)
    check_proposals(case, recording.outputs)
    check_gradients(case, recording)
    facts = recording.facts
    facts["state_dict"] = {name: shape_text(shape) for name, shape in facts["state_dict"].items()}
    facts["tuples"] = layouts(model, case)
    if case.saved:
        facts["saved"] = saved_files(model)
    write_facts(f"model_{case.name}", facts)
    size = store(f"model_{case.name}", recording)
    if case.float64:
        size += store(f"model_{case.name}.float64", record(build(case), case, torch.float64, add_total=True))
    log.info("%-40s %6d bytes", case.name, size)


def make_losses() -> None:
    """Write matched indices, losses and their gradients for made-up predictions."""
    arrays: dict[str, torch.Tensor] = {}
    for case in LOSS_CASES:
        matcher = DeformableDetrHungarianMatcher(case.class_cost, case.bbox_cost, case.giou_cost)
        criterion = DeformableDetrLoss(matcher, case.labels, case.focal_alpha, ["labels", "boxes", "cardinality"])
        logits, boxes = make_predictions(case)
        targets = make_targets(case)
        predictions = {"logits": logits, "pred_boxes": boxes}
        for index, (queries, wanted) in enumerate(matcher(predictions, targets)):
            arrays[f"{case.name}/queries.{index}"], arrays[f"{case.name}/targets.{index}"] = queries, wanted
        losses = criterion(predictions, targets)
        (losses["loss_ce"] + 5 * losses["loss_bbox"] + 2 * losses["loss_giou"]).backward()
        arrays |= {f"{case.name}/{key}": value for key, value in losses.items()}
        arrays |= {f"{case.name}/gradient of logits": logits.grad, f"{case.name}/gradient of boxes": boxes.grad}
    write_arrays("losses", {key: value.detach().numpy() for key, value in arrays.items()})


def make_processor() -> None:
    """Write everything about pictures in and boxes out."""
    arrays, facts = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        write_panoptic_masks(Path(folder))
        for case in PROCESSOR_CASES:
            found, facts[case.name] = record_processor(DeformableDetrImageProcessor(**case.init), case, Path(folder))
            arrays |= {f"{case.name}/{key}": value for key, value in found.items()}
    write_arrays("processor", decompose_all(arrays))
    write_facts("processor", facts)

    boxes = {}
    for case in POST_PROCESS_CASES:
        outputs = DeformableDetrObjectDetectionOutput(**make_raw_outputs(case))
        results = getattr(DeformableDetrImageProcessor(), case.method)(
            outputs, **case.call, target_sizes=make_target_sizes(case)
        )
        for index, result in enumerate(results):
            boxes |= {f"{case.name}/{index}.{key}": value.numpy() for key, value in result.items()}
    write_arrays("post_processing", boxes)


def make_files() -> None:
    """Write the text of configuration files."""
    texts: dict[str, dict[str, Any]] = {"config.json": {}, "preprocessor_config.json": {}}
    for file, kind, cases in (
        ("config.json", DeformableDetrConfig, CONFIG_FILES),
        ("preprocessor_config.json", DeformableDetrImageProcessor, PROCESSOR_FILES),
    ):
        for name, kwargs in cases.items():
            with tempfile.TemporaryDirectory() as folder:
                kind(**kwargs).save_pretrained(folder)
                texts[file][name] = json.loads((Path(folder) / file).read_text())
    write_facts("files", texts)


def main(names: list[str]) -> None:
    """Write all files, or those of the named model cases."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if transformers.__version__ != EXPECTED_VERSION:
        raise SystemExit(f"transformers is {transformers.__version__}, expected {EXPECTED_VERSION}: see README.md")
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    for case in MODEL_CASES:
        if not names or case.name in names:
            make_model_case(case)
    if not names:
        make_losses()
        make_processor()
        make_files()
    log.info("%s: %.2f MB in all", DATA.name, sum(file.stat().st_size for file in DATA.iterdir()) / 1e6)


if __name__ == "__main__":
    main(sys.argv[1:])
