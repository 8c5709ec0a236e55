"""Saving and loading whole models: both model classes, every way heads are shared, and what goes wrong."""

import copy
import json
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from ddetr_lab import checkpoints, files
from ddetr_lab.config import DeformableDetrConfig
from ddetr_lab.detector import DeformableDetrForObjectDetection
from ddetr_lab.model import DeformableDetrModel

VARIANTS = {
    "plain": {},
    "refined": {"with_box_refine": True},
    "two-stage": {"with_box_refine": True, "two_stage": True},
    "learned": {"position_embedding_type": "learned", "num_feature_levels": 1},
}


def tiny_config(**fields: object) -> DeformableDetrConfig:
    maps = ["stage4"] if fields.get("num_feature_levels") == 1 else ["stage2", "stage3", "stage4"]
    backbone = {
        "depths": [1, 1, 1, 1],
        "hidden_sizes": [4, 4, 8, 8],
        "embedding_size": 4,
        "layer_type": "basic",
        "out_features": maps,
    }
    small = {"encoder_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8, "num_queries": 5}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "two_stage_num_proposals": 5}
    return DeformableDetrConfig(
        **(
            {"use_timm_backbone": False, "backbone_config": backbone, "d_model": 32, "num_labels": 3}
            | small
            | heads
            | fields
        )
    )


def detector(**fields: object) -> DeformableDetrForObjectDetection:
    """A tiny detector with random weights: fresh ones are full of zeros, which would hide a lost tensor."""
    torch.manual_seed(0)
    model = DeformableDetrForObjectDetection(tiny_config(**fields)).eval()
    with torch.no_grad():
        for tensor in {id(tensor): tensor for tensor in model.state_dict(keep_vars=True).values()}.values():
            tensor.copy_(torch.rand_like(tensor) + 0.1)
    return model


def names_in(path: Path) -> set[str]:
    with safe_open(path, "pt") as stream:
        return set(stream.keys())


def assert_same(first: torch.nn.Module, second: torch.nn.Module) -> None:
    mine, theirs = first.state_dict(), second.state_dict()
    assert set(mine) == set(theirs)
    assert [name for name in mine if not torch.equal(mine[name], theirs[name])] == []


@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_saved_detector_comes_back_exactly(variant: str, safe: bool, tmp_path: Path) -> None:
    model = detector(**VARIANTS[variant])
    model.save_pretrained(tmp_path, safe_serialization=safe)
    loaded, report = DeformableDetrForObjectDetection.from_pretrained(tmp_path, output_loading_info=True)
    assert_same(loaded, model)
    assert report.is_complete and loaded.loading_report is report and not loaded.training
    assert loaded.name_or_path == str(tmp_path) and dict(report)["missing_keys"] == []
    pixel_values = torch.rand(1, 3, 96, 96)
    with torch.no_grad():
        first, second = model(pixel_values), loaded(pixel_values)
    assert torch.equal(first.logits, second.logits) and torch.equal(first.pred_boxes, second.pred_boxes)
    assert sorted(os.listdir(tmp_path)) == ["config.json", "model.safetensors" if safe else "pytorch_model.bin"]


@pytest.mark.parametrize(
    ("variant", "kept", "dropped"),
    [
        ("plain", ["class_embed.0.weight", "bbox_embed.0.layers.2.bias"], ["class_embed.1.weight"]),
        (
            "refined",
            ["class_embed.0.weight", "class_embed.1.weight", "model.decoder.bbox_embed.1.layers.0.weight"],
            ["bbox_embed.0.layers.0.weight", "bbox_embed.1.layers.0.weight"],
        ),
        (
            "two-stage",
            ["model.decoder.class_embed.2.weight", "model.decoder.bbox_embed.2.layers.0.weight"],
            ["class_embed.0.weight", "bbox_embed.2.layers.0.weight"],
        ),
    ],
)
def test_a_shared_tensor_has_the_name_that_the_reference_keeps(
    variant: str, kept: list[str], dropped: list[str], tmp_path: Path
) -> None:
    detector(**VARIANTS[variant]).save_pretrained(tmp_path)
    names = names_in(tmp_path / "model.safetensors")
    assert set(kept) <= names and not set(dropped) & names


def test_heads_stay_apart_or_together_after_loading(tmp_path: Path) -> None:
    for variant in ("plain", "refined", "two-stage"):
        detector(**VARIANTS[variant]).save_pretrained(tmp_path)
        model = DeformableDetrForObjectDetection.from_pretrained(tmp_path)
        first, second = model.bbox_embed[0].layers[0].weight, model.bbox_embed[1].layers[0].weight
        assert (first is second) == (variant == "plain")
        if variant == "two-stage":
            assert model.model.decoder.class_embed[0] is model.class_embed[0]


def test_the_file_says_the_class_and_the_dtype_and_the_model_is_unchanged(tmp_path: Path) -> None:
    model = detector()
    before = copy.deepcopy(model.config)
    model.save_pretrained(tmp_path, torch_dtype=torch.float16)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["architectures"] == ["DeformableDetrForObjectDetection"] and written["torch_dtype"] == "float16"
    assert model.config == before and model.dtype == torch.float32


def test_half_precision_in_the_file_is_float32_in_the_model_unless_asked(tmp_path: Path) -> None:
    detector().save_pretrained(tmp_path, torch_dtype=torch.float16)
    for asked, dtype in [(None, torch.float32), ("auto", torch.float16), ("bfloat16", torch.bfloat16)]:
        model = DeformableDetrForObjectDetection.from_pretrained(tmp_path, torch_dtype=asked)
        assert {tensor.dtype for tensor in model.parameters()} == {dtype}
    config = json.loads((tmp_path / "config.json").read_text())
    del config["torch_dtype"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert DeformableDetrForObjectDetection.from_pretrained(tmp_path, torch_dtype="auto").dtype == torch.float16


@pytest.mark.parametrize("dtype", ["float17", torch.int64, 3])
def test_a_dtype_that_no_model_has_is_named(dtype: object, tmp_path: Path) -> None:
    detector().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="torch_dtype = .*expected a float dtype"):
        DeformableDetrForObjectDetection.from_pretrained(tmp_path, torch_dtype=dtype)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_bare_model_loads_from_a_detector_s_file(variant: str, tmp_path: Path) -> None:
    model = detector(**VARIANTS[variant])
    model.save_pretrained(tmp_path)
    bare = DeformableDetrModel.from_pretrained(tmp_path)
    expected = model.model.state_dict()
    assert [name for name, tensor in bare.state_dict().items() if not torch.equal(tensor, expected[name])] == []


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_detector_loads_from_a_bare_model_s_file_and_warns_of_new_heads(variant: str, tmp_path: Path) -> None:
    model = detector(**VARIANTS[variant])
    model.model.save_pretrained(tmp_path)
    if variant == "two-stage":  # has the heads itself
        loaded = DeformableDetrForObjectDetection.from_pretrained(tmp_path)
        assert_same(loaded, model)
        return
    with pytest.warns(UserWarning, match="class_embed.0.weight[\\s\\S]*Train the new tensors"):
        loaded = DeformableDetrForObjectDetection.from_pretrained(tmp_path)
    assert torch.equal(loaded.model.level_embed, model.model.level_embed)
    assert not torch.equal(loaded.class_embed[0].weight, model.class_embed[0].weight)


def test_other_labels_need_a_word_and_get_fresh_heads_with_their_prior(tmp_path: Path) -> None:
    model = detector(with_box_refine=True)
    model.save_pretrained(tmp_path)
    # A RuntimeError for the reference's readers, a ValueError for this package's.
    with pytest.raises(RuntimeError, match=r"4 tensors have another shape: class_embed.0.weight \(file \(3, 32\), mod"):
        DeformableDetrForObjectDetection.from_pretrained(tmp_path, num_labels=7)
    names = {label: f"thing {label}" for label in range(7)}
    loaded = DeformableDetrForObjectDetection.from_pretrained(tmp_path, id2label=names, ignore_mismatched_sizes=True)
    assert loaded.config.id2label == names and loaded.config.label2id["thing 6"] == 6
    assert [entry.name for entry in loaded.loading_report.resized][:2] == ["class_embed.0.weight", "class_embed.0.bias"]
    assert torch.allclose(loaded.class_embed[1].bias, torch.full((7,), -4.59512), atol=1e-4)
    assert torch.equal(loaded.bbox_embed[1].layers[0].weight, model.bbox_embed[1].layers[0].weight)


def test_a_file_without_refinement_does_not_load_as_refined_and_the_other_way_round(tmp_path: Path) -> None:
    for saved, asked in [(False, True), (True, False)]:
        detector(with_box_refine=saved).save_pretrained(tmp_path)
        with pytest.raises(ValueError, match="with_box_refine"):
            DeformableDetrForObjectDetection.from_pretrained(tmp_path, with_box_refine=asked)


def test_a_configuration_may_be_given_and_is_copied(tmp_path: Path) -> None:
    model = detector()
    model.save_pretrained(tmp_path / "run")
    given = tiny_config(dropout=0.5)
    loaded = DeformableDetrForObjectDetection.from_pretrained(tmp_path / "run", config=given, auxiliary_loss=True)
    assert loaded.config.dropout == 0.5 and loaded.config.auxiliary_loss and not given.auxiliary_loss
    given.save_pretrained(tmp_path / "other")
    loaded = DeformableDetrForObjectDetection.from_pretrained(tmp_path / "run", config=tmp_path / "other")
    assert loaded.config.dropout == 0.5 and loaded.config.name_or_path == str(tmp_path / "run")


RESNET = tiny_config().backbone_config.to_dict()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_queries": 10**12}, r"256000 GB of weights by num_queries = 1000000000000, d_model = 32"),
        ({"d_model": 10**7}, r"GB of weights by decoder_layers = 2, d_model = 10000000, decoder_ffn_dim = 8"),
        ({"encoder_layers": 10**9}, r"GB of weights by encoder_layers = 1000000000"),
        ({"decoder_ffn_dim": 10**12}, r"decoder_ffn_dim = 1000000000000"),
        ({"encoder_n_points": 10**9}, r"encoder_n_points = 1000000000"),
        ({"num_feature_levels": 10**9}, r"num_feature_levels = 1000000000"),
        ({"backbone_config": RESNET | {"hidden_sizes": [4, 4, 8, 10**7]}}, r"hidden_sizes = \[4, 4, 8, 10000000\]"),
        (
            {"backbone_config": RESNET | {"depths": [1, 1, 1, 10**9]}},
            r"backbone_config.depths = \[1, 1, 1, 1000000000\]",
        ),
        ({"backbone_config": RESNET | {"embedding_size": 10**12}}, r"backbone_config.embedding_size = 1000000000000"),
        ({"use_timm_backbone": True, "backbone_config": None, "num_channels": 10**9}, r"by num_channels = 1000000000,"),
    ],
)
def test_tables_that_dwarf_the_file_are_refused_before_they_are_made(
    fields: dict, message: str, tmp_path: Path
) -> None:
    detector().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    class NeverBuilt(DeformableDetrForObjectDetection):
        def __init__(self, config: DeformableDetrConfig) -> None:
            raise AssertionError("it was built")

    with pytest.raises(ValueError, match=rf"the configuration asks for .*{message}.* config.json that was saved"):
        NeverBuilt.from_pretrained(tmp_path)


def test_a_larger_model_than_the_file_s_may_still_be_asked_for(tmp_path: Path) -> None:
    detector().save_pretrained(tmp_path)
    larger = {"num_queries": 50_000, "encoder_layers": 3, "ignore_mismatched_sizes": True, "strict": False}
    loaded = DeformableDetrForObjectDetection.from_pretrained(tmp_path, **larger)
    assert loaded.model.query_position_embeddings.num_embeddings == 50_000 and len(loaded.model.encoder.layers) == 3


def test_loading_never_fetches_imagenet_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = detector(use_pretrained_backbone=True)
    model.save_pretrained(tmp_path)
    seen = []

    class Witness(DeformableDetrForObjectDetection):
        def __init__(self, config: DeformableDetrConfig) -> None:
            seen.append(config.use_pretrained_backbone)
            super().__init__(config)

    loaded = Witness.from_pretrained(tmp_path)
    assert seen == [False]
    assert loaded.config.use_pretrained_backbone and loaded.model.config.use_pretrained_backbone


def test_a_shipped_name_loads_from_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = detector()
    model.save_pretrained(tmp_path / "tiny")
    monkeypatch.setattr(files, "_WEIGHTS", tmp_path)
    assert_same(DeformableDetrForObjectDetection.from_pretrained("tiny"), model)
    assert checkpoints.shipped("tiny") == tmp_path / "tiny" and checkpoints.shipped_names() == ["tiny"]


@pytest.mark.parametrize("part_size", [1, 3])
def test_a_checkpoint_in_parts_loads(part_size: int, tmp_path: Path) -> None:
    model = detector()
    model.save_pretrained(tmp_path)
    tensors = checkpoints.read_weights(tmp_path)
    names = sorted(tensors)
    weight_map = {}
    for start in range(0, len(names), 100 * part_size):
        part = f"model-{start:05}-of-99999.safetensors"
        chosen = names[start : start + 100 * part_size]
        checkpoints.write_safetensors({name: tensors[name] for name in chosen}, tmp_path / part)
        weight_map |= dict.fromkeys(chosen, part)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert_same(DeformableDetrForObjectDetection.from_pretrained(tmp_path), model)
    model.save_pretrained(tmp_path)  # removes the parts, which are stale now
    assert sorted(os.listdir(tmp_path)) == ["config.json", "model.safetensors"]


def test_saving_in_one_format_removes_the_other_but_no_other_file(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    detector().save_pretrained(tmp_path)
    newer = detector(num_labels=4)
    newer.save_pretrained(tmp_path, safe_serialization=False)
    assert sorted(os.listdir(tmp_path)) == ["config.json", "notes.txt", "pytorch_model.bin"]
    assert_same(DeformableDetrForObjectDetection.from_pretrained(tmp_path), newer)


def test_averaged_weights_can_be_saved_in_the_place_of_the_model_s(tmp_path: Path) -> None:
    model = detector()
    averaged = {name: tensor * 0.5 for name, tensor in model.state_dict().items()}
    model.save_pretrained(tmp_path, state_dict=averaged)
    loaded = DeformableDetrForObjectDetection.from_pretrained(tmp_path)
    assert torch.equal(loaded.class_embed[1].weight, model.class_embed[1].weight * 0.5)
    assert "class_embed.1.weight" not in names_in(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"state_dict has 'module.model.level_embed'.*save the inner model"):
        model.save_pretrained(tmp_path, state_dict={"module.model.level_embed": torch.zeros(1)})


def test_saving_onto_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotADirectoryError, match="save_directory"):
        detector().save_pretrained(tmp_path / "file")


def test_a_single_file_is_refused_with_the_remedy(tmp_path: Path) -> None:
    detector().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"expected the folder it lies in; .*from_authors\(path\)"):
        DeformableDetrForObjectDetection.from_pretrained(tmp_path / "model.safetensors")


def test_keywords_of_the_reference_are_taken_where_they_change_nothing(tmp_path: Path) -> None:
    model = detector()
    model.save_pretrained(tmp_path, is_main_process=False)
    assert not any(tmp_path.iterdir())
    model.save_pretrained(tmp_path, push_to_hub=False, variant=None, token="abc", save_function=torch.save)
    back = DeformableDetrForObjectDetection.from_pretrained(
        tmp_path, low_cpu_mem_usage=True, device_map=None, trust_remote_code=True, load_in_8bit=False
    )
    assert_same(back, model)
    with pytest.raises(TypeError, match="device_map: an option of the reference that from_pretrained has no use for"):
        DeformableDetrForObjectDetection.from_pretrained(tmp_path, device_map="auto")
    with pytest.raises(TypeError, match="safe: no option of save_pretrained"):
        model.save_pretrained(tmp_path, safe=True)
    with pytest.raises(ValueError, match="push_to_hub"):
        model.save_pretrained(tmp_path, push_to_hub=True)


def test_weights_may_be_given_instead_of_a_file(tmp_path: Path) -> None:
    model, other = detector(), detector(dropout=0.3)
    other.save_pretrained(tmp_path)
    state = {name: tensor + 1 for name, tensor in model.state_dict().items()}
    for back in (
        DeformableDetrForObjectDetection.from_pretrained(tmp_path, state_dict=state),
        DeformableDetrForObjectDetection.from_pretrained(None, config=model.config, state_dict=state),
        DeformableDetrForObjectDetection.from_pretrained(pretrained_model_name_or_path=tmp_path, state_dict=state),
    ):
        assert all(torch.equal(tensor, state[name]) for name, tensor in back.state_dict().items())
    with pytest.raises(TypeError, match="name_or_path is None"):
        DeformableDetrForObjectDetection.from_pretrained(None, state_dict=state)


def test_a_keyword_that_means_nothing_is_refused(tmp_path: Path) -> None:
    detector().save_pretrained(tmp_path)
    with pytest.raises(TypeError, match="num_lables: neither a field of the configuration nor an option"):
        DeformableDetrForObjectDetection.from_pretrained(tmp_path, num_lables=3)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_folder_with_a_file_missing_is_named(missing: str, tmp_path: Path) -> None:
    detector().save_pretrained(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(FileNotFoundError, match=f"has no {missing}"):
        DeformableDetrForObjectDetection.from_pretrained(tmp_path)


@contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """Let no file of this process grow past ``limit`` bytes, as on a disk that is nearly full."""
    old_limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    old_handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # else the write would end the process
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, old_limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old_limits)
        signal.signal(signal.SIGXFSZ, old_handler)


@pytest.mark.parametrize("safe", [True, False])
def test_a_full_disk_leaves_the_earlier_files_whole(safe: bool, tmp_path: Path) -> None:
    detector().save_pretrained(tmp_path, safe_serialization=safe)
    before = {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()}
    newer = detector(dropout=0.5)
    with torch.no_grad():
        newer.model.level_embed.add_(1)
    with full_disk(50_000), pytest.raises(OSError, match="could not write"):
        newer.save_pretrained(tmp_path, safe_serialization=safe)
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == before
