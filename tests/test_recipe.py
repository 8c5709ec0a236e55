"""Recipes: the shipped ones load, and a wrong setting is named with its section."""

from __future__ import annotations

import json

import pytest

from ddetr_lab.recipe import RECORD, available_recipes, load_recipe


def test_every_shipped_recipe_loads():
    assert "digits" in available_recipes()
    for name in available_recipes():
        assert load_recipe(name).name == name


def test_a_file_overrides_defaults_and_leaves_the_rest(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("[optimization]\nsteps = 7\nlearning_rate = 1\n")
    recipe = load_recipe(path)
    assert (recipe.name, recipe.optimization.steps, recipe.optimization.learning_rate) == ("mine", 7, 1.0)
    assert recipe.optimization.batch_size == 8
    assert isinstance(recipe.optimization.learning_rate, float)


def test_a_training_folder_gives_its_recipe_back(tmp_path):
    recipe = load_recipe("digits")
    (tmp_path / RECORD).write_text(json.dumps({**recipe.to_dict(), "seed": 3}))
    assert load_recipe(tmp_path) == recipe


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[optimisation]\nsteps = 1\n", r"unknown sections \['optimisation'\]"),
        ("[optimization]\nlr = 1\n", r"\[optimization\] has the unknown settings \['lr'\]"),
        ("[data]\nfoldr = 'x'\n", r"did you mean 'folder' by 'foldr'\?"),
        ("[optimisation]\n", r"did you mean 'optimization' by 'optimisation'\?"),
        ("[optimization]\nlearning_rate = '4e-4'\n", "= '4e-4', expected a number such as 0.0004"),
        ("[optimization]\nlearning_rate = 0.0\n", "learning_rate = 0.0, expected more: nothing would be learnt"),
        ("[data]\nbucket = 1\n", "bucket = 1, expected true or false, such as false"),
        ("[data]\ndataset = 1\n", 'dataset = 1, expected a text in quotes such as "digits"'),
        ("[optimization]\nsteps = 'many'\n", r"steps = 'many', expected a whole number such as 1000"),
        ("[optimization]\nsteps = 0\n", "steps = 0, expected a positive number"),
        ("[optimization]\nweight_decay = -0.1\n", "weight_decay = -0.1, expected a positive number"),
        ("[optimization]\nsteps = true\n", "steps = True, expected a whole number"),
        ("[model]\nfrozen_backbone = 'bn1'\n", "expected a list of strings"),
        ("optimization = 3\n", "expected a section"),
        ("steps = = 3\n", "no valid TOML"),
    ],
)
def test_a_wrong_file_is_refused_by_name(tmp_path, text, message):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_recipe(path)


def test_what_does_not_exist_lists_what_does(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected one of .*digits"):
        load_recipe("digitz")
    with pytest.raises(FileNotFoundError, match="does not exist; shipped recipes: .*digits"):
        load_recipe(tmp_path / "gone.toml")
    with pytest.raises(FileNotFoundError, match="no recipe.json"):
        load_recipe(tmp_path)
    (tmp_path / RECORD).write_text("{")
    with pytest.raises(ValueError, match="no valid JSON"):
        load_recipe(tmp_path)


@pytest.mark.parametrize("text", ["null", '"x"', "[]", "3"])
def test_a_record_that_is_no_object_is_named(tmp_path, text):
    (tmp_path / RECORD).write_text(text)
    with pytest.raises(ValueError, match=r"recipe\.json' is no recipe: expected an object, got"):
        load_recipe(tmp_path)


@pytest.mark.parametrize("depth", [900, 100_000])
def test_a_recipe_nested_too_deep_is_named(tmp_path, depth):
    nested = "[" * depth + "]" * depth
    (tmp_path / RECORD).write_text(f'{{"data": {nested}}}')
    (tmp_path / "deep.toml").write_text(f"data = {nested}\n")
    for path in (tmp_path, tmp_path / "deep.toml"):
        with pytest.raises(ValueError, match=r"^recipe "):
            load_recipe(path)


def test_a_recipe_that_is_not_utf_8_is_named(tmp_path):
    (tmp_path / "latin.toml").write_bytes('name = "\u00e9"\n'.encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin\.toml' is no text in UTF-8"):
        load_recipe(tmp_path / "latin.toml")


def test_a_file_can_extend_a_shipped_recipe(tmp_path):
    refined, plain = load_recipe("coco_refined"), load_recipe("coco")
    assert (refined.model.preset, plain.model.preset) == ("paper-refine", "paper")
    assert (refined.data, refined.optimization) == (plain.data, plain.optimization)
    path = tmp_path / "mine.toml"
    path.write_text('extends = "digits"\n[optimization]\nsteps = 3\n')
    assert load_recipe(path).optimization.steps == 3
    assert load_recipe(path).model == load_recipe("digits").model
    path.write_text('extends = "nothing"\n')
    with pytest.raises(ValueError, match="extends 'nothing', expected one of .*digits"):
        load_recipe(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[data]\ndataset = "voc"\n', r"\[data\] dataset = 'voc', expected one of digits, trees, coco"),
        ('[data]\ndataset = "trees"\ncrowded = true\n', "set it to false for 'trees'"),
        ('[model]\nkind = "sparse"\n', r"\[model\] kind = 'sparse'"),
        ('[optimization]\noptimizer = "sgd"\n', r"\[optimization\] optimizer = 'sgd', expected one of adamw, muon"),
        ('[optimization]\noptimizer = "muon"\nprecision = "float16"\n', 'does not go with precision = "float16"'),
        ('[optimization]\nschedule = "linear"\n', r"\[optimization\] schedule = 'linear'"),
        ("[optimization]\nwarmup_fraction = 2.0\n", "warmup_fraction = 2.0, expected 0 to 1"),
        ("[optimization]\nbatch_size = 2\naccumulation = 4\n", "accumulation = 4, expected 1 to 2"),
        ("[optimization]\nshrink = 1.5\n", "shrink = 1.5, expected 0.1 to 1"),
        ('[optimization]\nrecompute = ["heads"]\n', "recompute = 'heads', expected one of backbone"),
        ('[optimization]\ndrops = ["late"]\n', "expected a list of decimal numbers"),
    ],
)
def test_a_setting_outside_its_range_is_refused_by_section_and_name(tmp_path, text, message):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_recipe(path)


def test_nothing_may_be_asked_for_where_the_default_asks_for_nothing(tmp_path):
    path = tmp_path / "zero.toml"
    path.write_text("[checkpoint]\nevery_steps = 0\nevery_minutes = 0.0\n[data]\nworkers = 0\n")
    assert load_recipe(path).checkpoint.every_minutes == 0.0
