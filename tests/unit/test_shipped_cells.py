"""The cells and presets that the project ships: complete, distinct, and what their sources say."""

import subprocess
from typing import Any

import pytest

from reidablate.cell_files import SECTIONS
from reidablate.cell_views import planned_cell
from reidablate.cells import Cell
from reidablate.config import Preset
from reidablate.planning import load_preset, load_presets
from reidablate.trees import flatten, load_yaml
from support import ROOT, SHIPPED, shipped_cells

PRESETS = {**load_presets(ROOT), "tiny": load_preset(ROOT / "tests/tiny.yaml")}
CELLS = shipped_cells(PRESETS.values())
GROUPS = {
    "main": "naive_triplet p1 p1_rpe p1_rpe_jsd p2",
    "as_run": "naive_triplet_as_run p1_as_run p1_classifier_as_run p1_rpe_as_run p1_rpe_jsd_as_run p2_as_run "
    "pos_triplet_as_run naive_triplet_as_run_longer naive_triplet_as_run_faster p1_rpe_jsd_as_run_0513 "
    "cls_untie_as_run cls_per_patch_as_run",
    "recipe": "gap fraction_50 fraction_10",
    "backbone": "resnet50 pcb pcb_vit",
    "transreid": "sie jpm transreid",
    "demo": "shorter_demo longer_demo",
    "proposed_1": "p1_detach p1_mean_negative p1_classifier p1_hinge p1_both p1_common p1_shrinking p1_four_weight "
    "p1_four_weight_exchanged p1_mixed p1_common_and_different",
    "earlier_losses": "l2_softmax patch_triplet_distance_cosine patch_triplet_distance_euclidean "
    "element_weighted_form_th element_weighted_form_ewth element_weighted_form_hnth element_weighted_form_newth "
    "weighted_branch cross_attention_triplet",
    "positions": "rpe ape_off ape_sinusoidal rpe_only abs_x y_only x_only shaw_key rpe_zero_init rpe_double_lr "
    "conditional_position vertical_windows",
    "cls_position": "cls_no_ape cls_untie cls_untie_beit cls_untie_shared cls_per_patch cls_term tupe_reset",
    "position_relation": "jsd_layer jsd_permutations p2_without_rpe p2_rpe_detached p2_classifier p2_shifted_ape "
    "p2_scaled_ape p2_token_order p2_identity_mean p2_weight_0.5 p2_weight_12 p2_weight_144 p2_patches_3 p2_patches_10 "
    "p2_pairs_combinations_with_replacement p2_pairs_permutations p2_pairs_product p2_grouping_layer "
    "p2_grouping_sample p2_grouping_layer_reshaped p2_grouping_sample_reshaped p2_divergence_ag_mean p2_divergence_kl "
    "p2_divergence_sym_kl",
    "negative_results": "pos_triplet pos_triplet_mean pos_pull pos_triplet_lr_factor_0.25 pos_triplet_lr_factor_0.5 "
    "pos_triplet_lr_factor_2.0",
    "validation_curve": "p1_rpe_curve pos_triplet_curve",
}

# The state of the published code at each result, option by option, where it is not the default.
CONDITIONS = {
    "model.test_feature": "after_neck",
    "train.warmup_fraction": 5 / 120,
    "train.lr_step_at": "start",
}
AS_RUN: dict[str, dict[str, Any]] = {
    "naive_triplet_as_run": {},
    "p1_as_run": {
        "losses.triplet": None,
        "losses.weighted_triplet": {"weight_form": "one_plus_max", "aux": "naive"},
    },
    "p1_classifier_as_run": {
        "losses.triplet": None,
        "losses.weighted_triplet": {
            "weight_form": "one_plus_max",
            "aux": "naive",
            "select_by": "classifier",
            "similarity": "softmax",
        },
    },
    "p1_rpe_as_run": {
        "model.rpe": {"kind": "full", "lr_factor": 2.0},
        "losses.triplet": None,
        "losses.weighted_triplet": {"weight_form": "one_plus_max", "aux": "naive"},
    },
    "p1_rpe_jsd_as_run": {
        "model.rpe": {"kind": "full", "lr_factor": 2.0},
        "losses.triplet": None,
        "losses.weighted_triplet": {"weight_form": "one_plus_max", "aux": "mean_negative"},
        "losses.position_relation": {
            "divergence": "ag_mean",
            "grouping": "layer_reshaped",
            "select": "classifier",
            "grad_to_rpe": False,
            "ape_offset": "author_bug",
        },
        "train.epochs_factor": 1.5,
        "train.warmup_fraction": 5 / 180,
    },
    "p2_as_run": {
        "model.rpe": {"kind": "full", "lr_factor": 2.0},
        "losses.position_relation": {
            "divergence": "ag_mean",
            "grouping": "layer_reshaped",
            "pairs": "combinations_with_replacement",
            "select": "classifier",
            "grad_to_rpe": False,
        },
    },
    "pos_triplet_as_run": {
        "model.rpe": {"kind": "full", "lr_factor": 2.0},
        "losses.triplet": None,
        "losses.weighted_triplet": {"weight_form": "one_plus_max", "aux": "mean_negative"},
        "losses.position_triplet": {"bias": "mean", "grad_to_rpe": False, "ape_offset": "author_bug"},
    },
}
SECTION_DEFAULTS = {
    "losses.weighted_triplet": {"weight": 1.0, "margin": "soft", "weight_form": "max", "threshold": 0.0, "aux": None,
                                "similarity": "softmax_scaled", "scale_match": "full_sum", "ratio": 0.5,
                                "ratio_end": None, "pos_source": "anchor_patches", "detach_weight": False,
                                "detach_ratio": False, "select_by": "cls", "subtract_from": "anchor"},
    "losses.position_relation": {"weight": 1.0, "divergence": "jsd", "patches": 5, "pairs": "combinations",
                                 "grouping": "head", "select": "cls", "order": "similarity", "abs_scale": 1,
                                 "grad_to_rpe": True, "ape_offset": 0, "target": "hardest_positive", "cls_term": None},
    "losses.position_triplet": {"weight": 1.0, "bias": "concat", "patches": 5, "pairs": "combinations",
                                "negative": True, "grad_to_rpe": True, "ape_offset": 0},
    "model.rpe": {"kind": "none", "init": "normal", "init_sd": 0.02, "lr_factor": 1.0},
}  # fmt: skip


def at(config: dict[str, Any], dotted: str) -> Any:
    for key in dotted.split("."):
        config = config[key]
    return config


def test_every_cell_file_under_version_control_is_among_the_shipped_ones() -> None:
    listed = ["git", "ls-files", "ablations"]
    if (ROOT / ".git").exists():
        files = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
        assert sorted(files) == [f"ablations/{name}.yaml" for name in sorted(SHIPPED)]
    assert {cell.path.stem for cell in CELLS.values()} == set(SHIPPED)


def test_the_cells_of_each_group_are_there() -> None:
    found: dict[str, set[str]] = {}
    for cell in CELLS.values():
        found.setdefault(cell.group, set()).add(cell.name)
    assert found == {group: set(names.split()) for group, names in GROUPS.items()}


@pytest.mark.parametrize("preset", PRESETS.values(), ids=lambda preset: preset.name)
def test_every_cell_of_every_tier_resolves_under_every_preset_and_no_two_are_the_same(preset: Preset) -> None:
    configs = {cell.name: cell.resolve(preset) for cell in CELLS.values()}
    same_schedule = {"naive_triplet_as_run"}  # the ImageNet recipe has that schedule already
    hashes = [config.hash for name, config in configs.items() if name not in same_schedule]
    assert len(set(hashes)) == len(hashes)


@pytest.mark.parametrize("preset", [p for p in PRESETS.values() if p.name != "tiny"], ids=lambda preset: preset.name)
@pytest.mark.parametrize("cell", CELLS.values(), ids=lambda cell: cell.name)
def test_a_grid_has_the_patches_that_are_asked_for(cell: Cell, preset: Preset) -> None:
    config = cell.resolve(preset)
    losses = (config.losses.position_relation, config.losses.position_triplet)
    asked = [loss.patches for loss in losses if loss is not None]
    assert not asked or max(asked) <= config.model.grid[0] * config.model.grid[1]


@pytest.mark.parametrize("cell", CELLS.values(), ids=lambda cell: cell.name)
def test_a_cell_says_what_it_asks_and_declares_nothing_that_is_so_already(cell: Cell) -> None:
    assert cell.title
    assert cell.question.endswith("?")
    assert cell.path.read_text().startswith("# ")
    planned = planned_cell(cell, CELLS, PRESETS["paper"])
    file = load_yaml(cell.path)
    own = set(flatten({section: file[section] for section in SECTIONS if section in file})) | set(file.get("sweep", {}))
    for declared in planned.declared:
        own -= {key for key in own if key == declared or key.startswith(f"{declared}.")}
    assert not own


@pytest.mark.parametrize("name", AS_RUN)
def test_a_cell_as_run_is_the_published_code_option_by_option(name: str) -> None:
    config = CELLS[name].resolve(PRESETS["paper"]).dump()
    expected = CONDITIONS | AS_RUN[name]
    for key, value in expected.items():
        assert at(config, key) == (SECTION_DEFAULTS.get(key, {}) | value if isinstance(value, dict) else value), key
    baseline = CELLS["naive_triplet"].resolve(PRESETS["paper"]).dump()
    for key, value in flatten(baseline).items():
        if not any(key == changed or key.startswith(f"{changed}.") for changed in expected):
            assert at(config, key) == value, key


@pytest.mark.parametrize(
    ("name", "dataset", "epochs", "lr", "pairs", "grouping"),
    [
        ("p1_rpe_jsd_as_run", "market1501", 180, 4e-4, "combinations", "layer_reshaped"),
        ("p1_rpe_jsd_as_run", "occluded_duke", 180, 4e-4, "product", "head"),
        ("p1_rpe_jsd_as_run_0513", "market1501", 120, 6e-4, "combinations", "sample_reshaped"),
    ],
)
def test_the_published_combination_is_that_of_17_and_13_may(
    name: str, dataset: str, epochs: int, lr: float, pairs: str, grouping: str
) -> None:
    config = CELLS[name].resolve(PRESETS["paper"], dataset)
    assert (config.train.num_epochs, config.train.warmup_epochs) == (epochs, 5)
    assert config.train.base_lr == pytest.approx(lr)
    relation = config.losses.position_relation
    assert relation is not None
    assert (relation.pairs, relation.grouping) == (pairs, grouping)


def test_notes_about_the_schedule_are_left_out_where_the_preset_has_the_same() -> None:
    for preset in PRESETS.values():
        for cell in CELLS.values():
            planned = planned_cell(cell, CELLS, preset)
            keys = {key for found in planned.differences.values() for key in found}
            if cell.name.endswith("_as_run") and "schedule" in planned.notes:
                assert {"train.warmup_fraction", "train.lr_step_at"} & keys, f"{cell.name} under {preset.name}"


@pytest.mark.parametrize("name", [name for name in AS_RUN if name != "pos_triplet_as_run"])
def test_as_run_is_compared_with_as_defined_and_with_a_baseline_under_the_same_conditions(name: str) -> None:
    cell = CELLS[name]
    assert name.removesuffix("_as_run") in cell.references
    if name == "naive_triplet_as_run":
        return
    method = {"losses", "model.rpe", "train.lr_factor"}
    for reference in ("naive_triplet_as_run_longer", "naive_triplet_as_run", "p1_as_run"):
        if reference in cell.references:
            differences = planned_cell(cell, CELLS, PRESETS["paper"]).differences[reference]
            assert all(any(key.startswith(prefix) for prefix in method) for key in differences)
    assert {"naive_triplet_as_run", "naive_triplet_as_run_longer"} & set(cell.references)


def test_what_differs_beyond_the_method_is_said_in_the_notes() -> None:
    hidden = ("train.", "model.test_feature")
    for cell in CELLS.values():
        differences = planned_cell(cell, CELLS, PRESETS["paper"]).differences
        for reference, keys in differences.items():
            if any(key.startswith(hidden) for key in keys):
                assert "differ" in cell.notes.lower() or "shares" in cell.notes, f"{cell.name} against {reference}"


@pytest.mark.parametrize(
    ("name", "model", "train"),
    [
        ("paper", ("vit_base", (384, 128), "ics"), (4e-4, 120, 20, "end")),
        ("paper_vits", ("vit_small", (256, 128), "ics"), (4e-4, 120, 20, "end")),
        ("paper_vitb_imagenet", ("vit_base", (256, 128), "conv"), (8e-3, 120, 5, "start")),
    ],
)
def test_the_paper_presets_are_the_published_recipes(name: str, model: tuple[Any, ...], train: tuple[Any, ...]) -> None:
    config = CELLS["naive_triplet"].resolve(PRESETS[name])
    assert (config.model.backbone, config.model.image_size, config.model.stem) == model
    found = config.train
    assert (found.base_lr, found.num_epochs, found.warmup_epochs, found.lr_step_at) == train
    assert (found.optimiser, found.momentum, found.weight_decay, found.bias_lr_factor) == ("sgd", 0.9, 1e-4, 2.0)
    assert (found.num_ids, found.num_instances) == (16, 4)
    assert (found.augment.flip, found.augment.pad_px, found.augment.erase) == (0.5, 10, 0.5)
    assert config.model.test_feature == "before_neck"
    assert config.losses.model_dump(exclude_none=True) == {
        "identity": {"weight": 1.0, "label_smoothing": 0.0},
        "triplet": {"weight": 1.0, "margin": "soft"},
    }
