"""Cells: inheritance, references, sweeps, and every slip a user can make in a YAML file."""

import itertools
import json
import re
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import yaml

from reidablate.cell_schema import cell_schema
from reidablate.cell_views import as_cell_file, new_cell, planned_cell, unchanged_copies
from reidablate.cells import Cell, Cells, load_cells, select
from reidablate.config import EvaluateConfig
from reidablate.errors import UserError
from reidablate.planning import load_presets
from reidablate.selecting import pick
from support import run_cli

CORE = {
    "naive_triplet": (None, {}),
    "p1": ("naive_triplet", {"losses.triplet", "losses.weighted_triplet"}),
    "p1_rpe": ("p1", {"model.rpe.kind"}),
    "p1_rpe_jsd": ("p1_rpe", {"losses.position_relation"}),
    "p2": ("naive_triplet", {"model.rpe.kind", "losses.position_relation"}),
    "jsd_layer": ("p1_rpe_jsd", {"losses.position_relation.grouping"}),
    "jsd_permutations": ("p1_rpe_jsd", {"losses.position_relation.pairs"}),
    "cls_no_ape": ("p1_rpe_jsd", {"model.cls_position"}),
    "cls_untie": ("p1_rpe_jsd", {"model.cls_position"}),
    "pos_triplet": ("p1_rpe", {"losses.position_triplet"}),
}


def load(project: Path) -> Cells:
    return load_cells(project / "ablations", load_presets().values())


def write(project: Path, name: str, text: str) -> None:
    (project / "ablations" / f"{name}.yaml").write_text(text)


def test_the_core_cells_differ_from_their_parents_by_the_declared_keys_alone(project: Path) -> None:
    cells = load(project)
    core = {cell.name for cell in cells.values() if cell.tier == "core"}
    assert core == set(CORE)
    for preset in load_presets().values():
        for name, (parent, keys) in CORE.items():
            assert cells[name].extends == parent
            assert set(planned_cell(cells[name], cells, preset).declared) == set(keys)


def test_references_default_to_the_parent_and_the_root_of_its_chain(project: Path) -> None:
    cells = load(project)
    assert cells["naive_triplet"].references == ()
    assert cells["p1"].references == ("naive_triplet",)
    assert cells["p1_rpe_jsd"].references == ("p1_rpe", "naive_triplet")


def test_parents_stand_before_their_children(project: Path) -> None:
    cells = load(project)
    order = [cell.name for cell in select(cells, names=None, tier="optional")]
    for cell in cells.values():
        assert cell.extends is None or order.index(cell.extends) < order.index(cell.name)


def test_a_child_inherits_options_and_group_but_not_its_parents_words(project: Path) -> None:
    write(project, "mine", "name: mine\nextends: cls_untie\nlosses:\n  position_relation: {patches: 3}\n")
    mine = load(project)["mine"]
    assert mine.group == "cls_position"
    assert mine.title == "mine"
    assert mine.options["losses"]["position_relation"]["patches"] == 3
    assert mine.options["losses"]["position_relation"]["divergence"] == "jsd"
    assert mine.options["model"]["cls_position"] == "untie"


def test_a_sweep_makes_a_cell_of_every_combination(project: Path) -> None:
    write(
        project,
        "grid",
        "name: grid\nextends: p2\nsweep:\n  losses.position_relation.patches: [3, 10]\n"
        "  losses.position_relation.weight: [0.5, 12]\n",
    )
    cells = load(project)
    names = {name for name in cells if name.startswith("grid")}
    assert names == {f"grid_patches_{n}_weight_{w}" for n in (3, 10) for w in (0.5, 12)}
    config = cells["grid_patches_10_weight_0.5"].resolve(load_presets()["paper"])
    assert config.losses.position_relation is not None
    assert (config.losses.position_relation.patches, config.losses.position_relation.weight) == (10, 0.5)


def test_a_sample_draws_configurations_that_stay_as_they_are(project: Path) -> None:
    few = "name: drawn\nextends: p1\nsample: {train.lr_factor: loguniform(0.25, 4), n: 3}\n"
    more = few.replace("n: 3", "train.optimiser: choice(sgd, adamw), n: 40")
    write(project, "drawn", few)
    first = {name: cell.options["train"]["lr_factor"] for name, cell in load(project).items() if "drawn_" in name}
    assert list(first) == ["drawn_1", "drawn_2", "drawn_3"]
    write(project, "drawn", more)
    cells = {name: cell for name, cell in load(project).items() if "drawn_" in name}
    factors = {name: cell.options["train"]["lr_factor"] for name, cell in cells.items()}
    assert {name: factors[name] for name in first} == first
    assert len(set(factors.values())) == 40
    assert all(0.25 <= factor <= 4 for factor in factors.values())
    assert {cell.options["train"]["optimiser"] for cell in cells.values()} == {"sgd", "adamw"}
    # The logarithm is uniform: its mean is 0 with a standard error of log(16) / sqrt(12 * 40) = 0.13.
    assert abs(np.log(list(factors.values())).mean()) < 0.5
    assert f"(lr_factor: {factors['drawn_1']}, optimiser: " in cells["drawn_1"].title


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("a", "name: a\nextends: p1\nlosses:\n  wieghted_triplet: {}\n", "did you mean 'weighted_triplet'?"),
        ("a", "name: a\ntitel: x\n", "unknown key 'titel'; did you mean 'title'?"),
        ("a", "name: a\nextends: p11\n", "extends 'p11', which is not a cell; did you mean 'p1'?"),
        ("a", "name: a\nextends: a\n", "'extends' runs in a circle (a -> a)"),
        ("a", "name: a\nextends: p1\nreference: nobody\n", "reference 'nobody' is not a cell"),
        ("a", "name: a\nextends: p1\nreference: a\n", "cannot be its own reference"),
        ("a", "name: p1\n", "rename the file to p1.yaml"),
        ("a", "name: ..\n", "is not a safe folder name"),
        ("A b", "name: A b\n", "is not a safe folder name"),
        ("a", "name: a\ntrain: {lr: 0.1}\n", "'train.lr' belongs to the preset; scale it with 'train.lr_factor'"),
        ("a", "name: a\ntier: main\n", "'tier' is 'main' but should be 'core', 'extended' or 'optional'"),
        ("a", "name: a\nsweep: {seed: [1, 2]}\n", "sweep key 'seed' should start with model, losses, train"),
        ("a", "name: a\nsweep: {model.ape: []}\n", "at least 1 item"),
        ("a", "name: a\nsweep: {train.lr: [1]}\n", "sweep 'train.lr_factor' instead"),
        ("a", "name: a\nsample: {train.lr_factor: logunifrom(1, 2), n: 2}\n", "did you mean 'loguniform'?"),
        ("a", "name: a\nsample: {train.lr_factor: loguniform(0, 2), n: 2}\n", "both above zero"),
        ("a", "name: a\nsample: {train.lr_factor: 2, n: 2}\n", "'sample.train.lr_factor' is 2 but should be"),
        ("a", "name: a\nsample: {train.lr_factor: uniform(1, 2)}\n", "key 'sample.n' is missing"),
        ("a", "name: a\nsample: {train.lr: uniform(1, 2), n: 2}\n", "sample 'train.lr_factor' instead"),
        ("a", "name: a\nsample: {n: 2}\n", "an option with its distribution"),
        ("a", "name: a\nsample: {train.lr_factor: uniform(1, 2), n: 501}\n", "the sample has 501 points"),
        ("a", "name: a\nsweep: {model.ape: [none]}\nsample: {train.lr_factor: uniform(1, 2), n: 2}\n", "leave one of"),
        ("a", "title: nameless\n", "key 'name' is missing"),
        ("a", "name: a\nmodel: {image_size: [64, 32]}\n", "'model.image_size' belongs to the preset; change it in a"),
        ("a", "name: a\nsweep: {model.image_size: [[64, 32]]}\n", "'model.image_size' belongs to the preset"),
        ("a", "name: a\nextends: naive_triplet\ntrain: {lr_factor: .inf}\n", "is inf but should be a finite number"),
        ("a", "name: a\nlosses: {identity: none, triplet: none}\n", "losses: every term is none"),
        ("a", "name: a\nextends: p2\nmodel: {ape: none, rpe: none}\n", "should be a mapping of options"),
        ("a", "name: a\nextends: p2\nmodel: {ape: none, rpe: {kind: none}}\n", "the model has none"),
    ],
)
def test_a_slip_is_one_sentence_naming_the_file(project: Path, name: str, text: str, sentence: str) -> None:
    before = set(load(project))
    write(project, name, text)
    cells = load(project)
    assert set(cells) == before
    for found in (cells.broken[name].sentence, refusal(cells, name)):
        assert sentence in found
        assert f"{name}.yaml" in found
    (line,) = cells.notices
    assert line == f"{cells.broken[name].sentence} Left out until then: {name}."


def refusal(cells: Cells, name: str) -> str:
    with pytest.raises(UserError) as caught:
        select(cells, names=[name], tier="core")
    return str(caught.value)


def test_a_slip_in_one_point_of_a_sweep_names_the_point_and_leaves_the_others(project: Path) -> None:
    write(project, "a", "name: a\nextends: p2_without_rpe\nsweep: {model.ape: [learned, none]}\n")
    cells = load(project)
    assert list(cells.broken) == ["a_ape_none"]
    assert re.match(r".*ablations/a.yaml, cell a_ape_none: .* the model has none", refusal(cells, "a_ape_none"))
    assert "a_ape_learned" in cells


def test_a_broken_file_takes_with_it_the_cells_that_need_it_and_no_other(project: Path) -> None:
    whole = set(load(project))
    write(project, "base", "name: base\nextends: p1\nlosses: [\n")
    write(project, "child", "name: child\nextends: base\n")
    write(project, "beside", "name: beside\nextends: p1\nreference: base\n")
    write(project, "beyond", "name: beyond\nextends: beside\n")
    cells = load(project)
    assert set(cells) == whole
    assert set(cells.broken) == {"base", "child", "beside", "beyond"}
    (line,) = cells.notices
    assert "base.yaml is not valid YAML" in line
    assert line.endswith("Left out until then: base, child, beside, beyond.")
    for name, key in (("child", "extends"), ("beside", "reference"), ("beyond", "extends")):
        said = refusal(cells, name)
        assert re.match(rf".*{name}.yaml: {key} '\w+' cannot be used, because .*base.yaml is not valid YAML", said)
        assert said.count("because") == 1


def test_a_point_of_a_sweep_whose_file_is_broken_ends_with_the_sentence_of_the_file(project: Path) -> None:
    path = project / "ablations" / "p2_weight.yaml"
    path.write_text(path.read_text() + "sweep: {}\n")
    assert "p2_weight.yaml is not valid YAML: key 'sweep' stands twice" in refusal(load(project), "p2_weight_12")


@pytest.mark.parametrize("name", ["501", "2024_05", "1e5", "2024-05-01", "no", "0x1f", "nan"])
def test_names_that_yaml_reads_as_something_else_are_names(project: Path, name: str) -> None:
    write(project, name, f"name: {name}\nextends: p1\n")
    write(project, "child", f"name: child\nextends: {name}\nreference: [{name}, naive_triplet]\n")
    cells = load(project)
    assert cells[name].name == name
    assert cells["child"].extends == name
    assert cells["child"].references == (name, "naive_triplet")
    new_cell(project / "ablations", f"{name}.2", cells[name])
    again = load(project)[f"{name}.2"]
    assert (again.name, again.extends) == (f"{name}.2", name)


@pytest.mark.parametrize("preset", ["quickstart", "paper"])
def test_a_shown_cell_is_a_cell_that_means_the_same_under_every_preset(project: Path, preset: str) -> None:
    presets = load_presets()
    before = load(project)
    for name in ("naive_triplet", "p1_rpe_jsd", "p2_weight_12", "p1_rpe_jsd_as_run", "cls_untie_as_run", "cls_term"):
        text = as_cell_file(before[name], presets[preset])
        options = [line.split(":")[0] for line in text.splitlines() if line.startswith("#   ")]
        assert len(options) == len(set(options))
        copy = text.replace(f"name: {name}\n", f"name: copy.{name}\n", 1)
        write(project, f"copy.{name}", copy)
    after = load(project)
    for name, copied in ((name, cell) for name, cell in after.items() if name.startswith("copy.")):
        cell = before[name.removeprefix("copy.")]
        assert (copied.title, copied.extends, copied.references) == (cell.title, cell.extends, cell.references)
        assert copied.notes_not_under == cell.notes_not_under
        for scale, dataset in itertools.product(presets.values(), (None, *cell.by_dataset)):
            assert copied.resolve(scale, dataset) == cell.resolve(scale, dataset)


def test_an_unchanged_copy_is_named_beside_what_it_repeats(project: Path) -> None:
    write(project, "mine", "name: mine\nextends: p1\n")
    write(project, "again", "name: again\nextends: p1\nseed_offset: 100\n")
    write(project, "other", "name: other\nextends: p1\nlosses: {weighted_triplet: {ratio: 0.25}}\n")
    elsewhere = "name: elsewhere\nextends: p1\nby_dataset: {occluded_duke: {train: {lr_factor: 2.0}}}\n"
    write(project, "elsewhere", elsewhere)
    cells, preset = load(project), load_presets()["quickstart"]
    (line,) = unchanged_copies([cells[name] for name in ("again", "mine", "other", "elsewhere")], cells, preset)
    assert line.startswith("mine: same configuration as p1, so its runs repeat those of p1; write what differs into")
    assert line.endswith("ablations/mine.yaml.")
    assert unchanged_copies(select(before_copies(cells), names=None, tier="core"), cells, preset) == []


def before_copies(cells: Cells) -> dict[str, Cell]:
    return {name: cell for name, cell in cells.items() if name not in {"mine", "again", "other", "elsewhere"}}


def test_two_cells_are_compared_on_every_data_set_on_which_they_differ_otherwise(project: Path) -> None:
    write(project, "mine", "name: mine\nextends: p1\nby_dataset: {occluded_duke: {train: {lr_factor: 2.0}}}\n")
    assert run_cli("cells", "diff", "p1", "mine").splitlines() == [
        "p1 and mine are the same.",
        "on occluded_duke:",
        "  train.lr_factor: 1.0 -> 2.0",
    ]


@pytest.mark.parametrize("name", ["mine.yaml", "mine.yml", "mine.YAML"])
def test_every_spelling_of_the_suffix_is_a_cell(project: Path, name: str) -> None:
    (project / "ablations" / name).write_text("name: mine\nextends: p1\n")
    assert "mine" in load(project)


def test_an_editors_hidden_file_is_no_cell(project: Path) -> None:
    (project / "ablations" / ".p1.yaml").write_text("name: p1\n")
    assert load(project)["p1"].path.name == "p1.yaml"


@pytest.mark.parametrize(
    "varied", ["sweep: {train.lr_facto: [1, 2]}", "sample: {train.lr_facto: 'uniform(1, 2)', n: 2}"]
)
def test_a_file_none_of_whose_points_can_be_used_says_why_by_its_own_name(project: Path, varied: str) -> None:
    write(project, "mine", f"name: mine\nextends: p1\n{varied}\n")
    cells = load(project)
    with pytest.raises(UserError, match=r"unknown key 'train\.lr_facto'; did you mean 'lr_factor'"):
        pick("cells", "mine", cells.words, {name: fault.sentence for name, fault in cells.broken.items()})


def test_a_cell_that_reads_cameras_on_one_data_set_alone_is_marked(project: Path) -> None:
    here = "{market1501: {model: {parts: {camera_embedding: {}}}}}"
    write(project, "mine", f"name: mine\nextends: p1\nby_dataset: {here}\n")
    cells, preset = load(project), load_presets()["quickstart"]
    assert {name: planned_cell(cells[name], cells, preset).reads_cameras for name in ("mine", "p1", "sie")} == {
        "mine": True,
        "p1": False,
        "sie": True,
    }


def test_a_circle_of_two_is_found(project: Path) -> None:
    write(project, "a", "name: a\nextends: b\n")
    write(project, "b", "name: b\nextends: a\n")
    cells = load(project)
    assert "circle (a -> b -> a)" in refusal(cells, "a")
    assert "circle (b -> a -> b)" in refusal(cells, "b")


def test_two_cells_of_one_name_are_refused(project: Path) -> None:
    (project / "ablations" / "p1.yml").write_text("name: p1\nextends: naive_triplet\n")
    with pytest.raises(UserError, match="cell name 'p1' is already used by"):
        load(project)


@pytest.mark.parametrize("other", ["Mine.yaml", "mine.yml", "MINE.YAML"])
def test_two_files_of_one_name_in_other_cases_are_refused(project: Path, other: str) -> None:
    write(project, "mine", "name: mine\nextends: p1\n")
    (project / "ablations" / other).write_text("not even YAML: [")
    with pytest.raises(UserError, match=r"cell name 'mine' is already used by .*; rename one, not only its case"):
        load(project)


def test_a_new_cell_overwrites_no_file_of_its_name_in_another_case(project: Path) -> None:
    cells = load(project)
    (project / "ablations" / "Mine.yml").write_text("kept")
    with pytest.raises(UserError, match=r"Mine.yml exists already"):
        new_cell(project / "ablations", "mine", cells["p1"])


def test_an_unknown_selection_names_the_nearest_cell(project: Path) -> None:
    with pytest.raises(UserError, match="there is no cell 'p1_rep'; did you mean 'p1_rpe'"):
        select(load(project), names=["p1_rep"], tier="core")


def test_a_new_cell_loads_and_is_its_parent_until_it_is_edited(project: Path) -> None:
    cells = load(project)
    path = new_cell(project / "ablations", "mine", cells["p1"])
    mine = load(project)["mine"]
    preset = load_presets()["quickstart"]
    assert mine.resolve(preset) == cells["p1"].resolve(preset)
    with pytest.raises(UserError, match="exists already"):
        new_cell(project / "ablations", "mine", cells["p1"])
    assert path.read_text().startswith("name: mine\n")


def test_the_schema_accepts_every_shipped_cell_and_refuses_a_slip(project: Path) -> None:
    schema = json.loads(json.dumps(cell_schema()[0]))
    for path in (project / "ablations").glob("*.yaml"):
        jsonschema.validate(yaml.safe_load(path.read_text()), schema)
    without = {"losses": {"triplet": "none", "weighted_triplet": {"aux": "none"}}, "model": {"local_features": "none"}}
    jsonschema.validate({"name": "a", **without}, schema)
    for slip in (
        {"name": "a", "losses": {"tripet": {}}},
        {"name": "a", "train": {"lr": 1}},
        {"name": "a", "model": {"parts": {"camera_embedding": {"scal": 3}}}},
        {"name": "a", "model": {"local_features": {"use": "jigsaw", "number": 6}}},
        {"title": "nameless"},
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(slip, schema)


def test_where_else_a_cell_is_scored_is_inherited_and_is_no_science(project: Path) -> None:
    preset = load_presets()["quickstart"]
    before = load(project)["p1"].resolve(preset).hash
    path = project / "ablations" / "p1.yaml"
    path.write_text(path.read_text() + "evaluate: {also_on: occluded_duke}\n")
    write(project, "nowhere", "name: nowhere\nextends: p1\nevaluate: {also_on: []}\n")
    write(project, "everywhere", "name: everywhere\nextends: p1\nevaluate: {also_on: all}\n")
    cells = load(project)
    assert cells["p1"].resolve(preset).hash == before
    chosen = preset.model_copy(update={"evaluate": EvaluateConfig(also_on=["market1501"])})
    found = {
        name: planned_cell(cells[name], cells, chosen).also_on
        for name in ("p1", "p1_rpe", "nowhere", "everywhere", "p2")
    }
    assert found == {
        "p1": ["occluded_duke"], "p1_rpe": ["occluded_duke"], "nowhere": [], "everywhere": "all", "p2": ["market1501"],
    }  # fmt: skip
    assert all(load_presets()[name].evaluate.also_on == [] for name in load_presets())


def test_a_mistyped_key_of_evaluate_is_named(project: Path) -> None:
    write(project, "typo", "name: typo\nextends: p1\nevaluate: {also: all}\n")
    assert "unknown key 'evaluate.also'; did you mean 'also_on'?" in refusal(load(project), "typo")


def test_a_cell_is_primary_by_its_own_word_or_the_presets_and_its_children_are_not(project: Path) -> None:
    write(project, "mine", "name: mine\nextends: p1\nprimary: true\n")
    write(project, "child", "name: child\nextends: mine\n")
    cells = load(project)
    preset = load_presets()["quickstart"].model_copy(update={"primary": ["p1_rpe"]})
    shown = {name: planned_cell(cells[name], cells, preset).primary for name in ("mine", "child", "p1_rpe", "p1")}
    assert shown == {"mine": True, "child": False, "p1_rpe": True, "p1": False}


def test_a_preset_that_names_no_cell_as_primary_is_a_sentence(project: Path) -> None:
    preset = load_presets()["quickstart"].model_copy(update={"primary": ["p1_rpee"]})
    with pytest.raises(
        UserError, match=r"preset 'quickstart': primary 'p1_rpee' is not a cell; did you mean 'p1_rpe'\?"
    ):
        load_cells(project / "ablations", [preset])
