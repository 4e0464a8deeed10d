"""Options: what is accepted, what is refused, and the sentence that says so."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reidablate.cell_schema import cell_schema
from reidablate.config import Counts, Preset, RunConfig, TrainConfig, validate
from reidablate.errors import UserError
from reidablate.published import ClaimFile
from reidablate.requirements import require_parts
from reidablate.sections import meanings
from reidablate.settings import Settings
from reidablate.trees import difference, load_yaml, merge

BASE = {"model": {"backbone": "vit_quickstart", "image_size": [64, 32]}, "train": {"lr": 0.1, "epochs": 30}}


def resolve(over: dict[str, object]) -> RunConfig:
    return validate(RunConfig, merge(BASE, over), where="ablations/x.yaml")


@pytest.mark.parametrize(
    ("over", "sentence"),
    [
        ({"losses": {"tripet": {}}}, "unknown key 'losses.tripet'; did you mean 'triplet'?"),
        ({"losses": {"position_relation": {"divergense": "jsd"}}}, "did you mean 'divergence'?"),
        ({"model": {"rpe": {"knd": "full"}}}, "unknown key 'model.rpe.knd'; did you mean 'kind'?"),
        ({"modl": {}}, "unknown key 'modl'; did you mean 'model'?"),
        ({"losses": {"weighted_triplet": {"ratio": 2}}}, "weighted_triplet.ratio' is 2 but should be less than"),
        ({"losses": {"weighted_triplet": {"margin": -1}}}, "should be 'soft' or greater than or equal to 0"),
        ({"losses": {"position_relation": {"pairs": "comb"}}}, "'combinations', 'combinations_with_replacement'"),
        ({"losses": {"position_relation": 5}}, "should be a mapping of options, or none"),
        ({"train": {"lr": "fast"}}, "'train.lr' is 'fast' but should be a valid number"),
        ({"train": {"num_ids": True}}, "'train.num_ids' is True but should be a number"),
        ({"model": {"last_stride": True}}, "'model.last_stride' is True but should be a number"),
        ({"losses": {"triplet": {"margin": True}}}, "'losses.triplet.margin' is True but should be a number"),
        (
            {"train": {"epochs_factor": 1e300}},
            "'train.epochs_factor' is 1e+300 but should be less than",
        ),
        ({"train": {"epochs": 10**9}}, "but should be less than or equal to 1000000"),
        ({"train": {"lr": float("inf")}}, "'train.lr' is inf but should be a finite number"),
        ({"losses": {"triplet": {"margin": float("nan")}}}, "'losses.triplet.margin' is nan but should be"),
        ({"losses": {"identity": "none", "triplet": "none"}}, "losses: every term is none; keep at least one"),
        ({"model": {"image_size": [50, 32]}}, "model: image_size 50 x 32 is not a whole number of patches"),
        ({"model": {"image_size": [64, 33]}}, "make height and width multiples of 8."),
        (
            {"model": {"ape": "none"}, "losses": {"position_relation": {}}},
            "losses.position_relation relates position parameters but the model has none",
        ),
        (
            {"model": {"ape": "none", "rpe": {"kind": "shaw_key"}}, "losses": {"position_triplet": {}}},
            "losses.position_triplet relates position parameters but the model has none",
        ),
        (
            {
                "model": {"ape": "none", "rpe": {"kind": "full"}},
                "losses": {"position_relation": {"cls_term": "patches"}},
            },
            "cls_term relates CLS to patches but the model has no such parameters",
        ),
    ],
)
def test_a_wrong_option_is_refused_by_name_with_a_way_out(over: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        resolve(over)
    assert str(caught.value).startswith("ablations/x.yaml: ")
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_option_is_named() -> None:
    with pytest.raises(UserError, match=r"key 'model.backbone' is missing"):
        validate(RunConfig, {"model": {"image_size": [64, 32]}, "train": BASE["train"]}, where="x")


def test_a_mistyped_key_is_named_rather_than_the_one_that_it_leaves_missing() -> None:
    model = {"backbon": "vit_small", "image_size": [64, 32]}
    with pytest.raises(UserError, match=r"unknown key 'model.backbon'; did you mean 'backbone'\?"):
        validate(RunConfig, {"model": model, "train": BASE["train"]}, where="x")


@pytest.mark.parametrize(
    "over",
    [
        {"model": {"ape": "none", "rpe": {"kind": "x_only"}}, "losses": {"position_relation": {}}},
        {"model": {"ape": "none", "rpe": {"kind": "full"}, "cls_position": "per_patch"},
         "losses": {"position_relation": {"cls_term": "patches"}}},
    ],
)  # fmt: skip
def test_positions_of_either_kind_are_enough_to_relate(over: dict[str, object]) -> None:
    assert resolve(over).losses.position_relation is not None


def test_a_loss_may_relate_as_many_patches_as_the_grid_has() -> None:
    def check(patches: int) -> None:
        require_parts(resolve({"losses": {"position_triplet": {"patches": patches}}}), "cell x")

    check(8 * 4)
    with pytest.raises(
        UserError, match=r"cell x: losses\.position_triplet wants 33 patches but the grid of 8 x 4 has 32"
    ):
        check(8 * 4 + 1)


def test_none_switches_a_term_off_and_an_empty_mapping_switches_it_on() -> None:
    config = resolve({"losses": {"triplet": "none", "weighted_triplet": {}}})
    assert config.losses.triplet is None
    assert config.losses.weighted_triplet is not None
    assert config.losses.weighted_triplet.ratio == 0.5


def test_the_hash_ignores_order_and_sees_every_option() -> None:
    one = resolve({"losses": {"position_relation": {"patches": 3, "weight": 2}}})
    two = resolve({"losses": {"position_relation": {"weight": 2.0, "patches": 3}}})
    assert one.hash == two.hash
    assert one.hash != resolve({"losses": {"position_relation": {"patches": 3, "weight": 3}}}).hash


def test_a_run_config_survives_its_own_dump() -> None:
    config = resolve({"losses": {"triplet": "none", "weighted_triplet": {"aux": "none"}, "position_relation": {}}})
    assert RunConfig.model_validate(config.dump()) == config


def test_a_cells_factors_scale_the_presets_schedule() -> None:
    train = TrainConfig(lr=4e-4, epochs=120, lr_factor=1.5, epochs_factor=0.25, warmup_fraction=20 / 120)
    assert (train.base_lr, train.num_epochs, train.warmup_epochs) == (6.000000000000001e-4, 30, 5)


def test_merging_replaces_leaves_and_keeps_siblings() -> None:
    merged = merge({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"c": 4}, "d": {"e": 5}})
    assert merged == {"a": {"b": 1, "c": 4}, "d": {"e": 5}}


def test_a_section_that_only_one_side_has_is_one_difference() -> None:
    assert difference({"a": {"b": 1}, "c": None}, {"a": {"b": 2}, "c": {"d": 1}}) == {
        "a.b": [1, 2],
        "c": [None, {"d": 1}],
    }


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text("name: a\nname: b\n")
    with pytest.raises(UserError, match="key 'name' stands twice"):
        load_yaml(path)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: [", "is not valid YAML"),
        ("- a\n", "holds a list"),
        ("? [a]\n: b\n", r"is not valid YAML: key a list or mapping, which is no word"),
        ("a: " + 2000 * "[" + 2000 * "]", "is nested too deeply"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=sentence):
        load_yaml(path)


def test_a_folder_in_the_place_of_a_file_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        load_yaml(tmp_path)


def undescribed(schema: Any, where: str = "") -> Iterator[str]:
    """Yields every option of a JSON Schema that has no description."""
    for key, value in schema.items() if isinstance(schema, dict) else enumerate(schema):
        if key == "properties":
            yield from (f"{where}/{name}" for name, option in value.items() if not option.get("description"))
        if isinstance(value, dict | list):
            yield from undescribed(value, f"{where}/{key}")


def test_every_option_of_a_cell_a_preset_the_settings_and_a_claim_is_described() -> None:
    assert list(undescribed(cell_schema()[0])) == []
    counts = {field.name for field in dataclasses.fields(Counts)}
    assert counts <= meanings(Counts).keys()
    for model in (Preset, Settings, ClaimFile):
        lacking = undescribed(model.model_json_schema(mode="serialization"))
        assert [where for where in lacking if not where.startswith("/$defs/Counts/")] == []


def test_descriptions_are_those_of_the_option_and_are_no_part_of_the_sections_own() -> None:
    definitions = cell_schema()[0]["$defs"]
    assert definitions["AugmentConfig"]["description"] == "Training-time augmentation."
    assert definitions["AugmentConfig"]["properties"]["flip"]["description"].startswith("Probability that an image")
    assert definitions["IdentityConfig"]["properties"]["weight"]["description"].startswith("Factor of the loss")
    assert {"const": "none"} in definitions["WeightedTripletConfig"]["properties"]["aux"]["anyOf"]
    jigsaw, stripes = definitions["LocalFeaturesConfig"]["anyOf"]
    assert {"use", "shift", "groups", "parts"} == jigsaw["properties"].keys()
    assert stripes["description"].startswith("The mean of each stripe")
