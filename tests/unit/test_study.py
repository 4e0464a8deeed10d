"""The plan: which data, which preset, which runs, and when not to start."""

from pathlib import Path

import pytest
import yaml

from reidablate.engine.from_plan import train_spec
from reidablate.errors import UserError
from reidablate.planning import plan
from reidablate.study import Study, load_study

Settings = dict[str, object]


def real_looking(root: Path, *names: str) -> None:
    """Writes Market-1501 folders that hold names and no images: planning opens none."""
    images = {
        "bounding_box_train": ["0002_c1s1_000451_03.jpg"],
        "query": ["0001_c1s1_001051_00.jpg", "0003_c1s6_023021_00.jpg.jpg"],
        "bounding_box_test": ["0001_c2s1_001076_01.jpg", "0003_c2s1_001076_01.JPG", "-1_c1s1_000401_03.jpg"],
    }
    for name in names:
        for folder, files in images.items():
            (root / name / folder).mkdir(parents=True)
            for file in files:
                (root / name / folder / file).touch()


def test_without_data_the_quickstart_runs_and_says_so(settings: Settings) -> None:
    study = plan({**settings, "preset": "auto"})
    assert study.preset.name == "quickstart"
    assert [dataset.name for dataset in study.datasets] == ["market1501", "occluded_duke"]
    assert all(dataset.generated for dataset in study.datasets)
    assert len(study.runs) == (10 + 2) * 2 * 3  # the core cells and the planted gain
    assert "SYNTHETIC" in study.notices[0]
    assert study.refusals(gpu_limit=4, num_gpus=0) == []


@pytest.mark.parametrize("folder", ["market1501", "Market-1501-v15.09.15"])
def test_with_data_the_paper_preset_runs_on_it(settings: Settings, project: Path, folder: str) -> None:
    real_looking(project / "elsewhere", folder)
    study = plan({**settings, "preset": "auto", "data_root": "elsewhere"})
    assert study.preset.name == "paper"
    assert [dataset.name for dataset in study.datasets] == ["market1501"]
    assert (
        len(study.runs) == (10 + 6 + 1) * 5
    )  # the core cells, those that claims name, and what one of them is compared with
    assert [entry.name for entry in study.missing_datasets] == ["occluded_duke"]
    assert "Occluded-Duke is missing" in study.notices[0]


def test_the_paper_preset_refuses_to_waste_hundreds_of_hours(settings: Settings, project: Path) -> None:
    real_looking(project / "data", "market1501")
    study = plan({**settings, "preset": "auto"})
    assert "without a GPU" in str(study.refusals(gpu_limit=4, num_gpus=0))
    assert "pre-trained weights" in str(study.refusals(gpu_limit=4, num_gpus=4))
    assert "allows fewer" in str(study.refusals(gpu_limit=0, num_gpus=4))
    both = plan({**settings, "preset": "auto", "device": "cpu", "weights": "none"})
    assert both.refusals(gpu_limit=0, num_gpus=0) == []
    assert "no weights at w.pth" in str(
        plan({**settings, "preset": "auto", "weights": "w.pth"}).refusals(gpu_limit=4, num_gpus=1)
    )


def test_a_mistyped_weight_file_is_refused_in_every_preset(settings: Settings) -> None:
    assert "no weights at w.pth" in str(plan({**settings, "weights": "w.pth"}).refusals(gpu_limit=4, num_gpus=0))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<!DOCTYPE html><html>Quota exceeded</html>", "w.pth is a web page in place of weights"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "w.pth is a Git LFS pointer"),
        (b"", "w.pth is empty"),
    ],
)
def test_a_file_that_holds_no_weights_is_refused_while_planning(
    settings: Settings, project: Path, content: bytes, words: str
) -> None:
    Path("w.pth").write_bytes(content)
    two_backbones(project)
    for choice in ("w.pth", {"vit_quickstart": "w.pth"}):
        with pytest.raises(UserError, match=words):
            plan({**settings, "weights": choice})
        tiny = yaml.safe_load((project / "tiny.yaml").read_text())
        (project / "own.yaml").write_text(
            yaml.safe_dump({**tiny, "name": "own", "weights": {"vit_quickstart": "w.pth"}})
        )
        with pytest.raises(UserError, match=words):
            plan({**settings, "preset": "own.yaml"})
    assert plan({**settings, "weights": "none"}).weights is None


def two_backbones(project: Path) -> None:
    """Adds a cell whose backbone is not the preset's, and a file for each."""
    (project / "ablations" / "small.yaml").write_text(
        "name: small\nextends: naive_triplet\nmodel: {backbone: vit_small}\n"
    )
    for name in ("a.pth", "b.pth"):
        (project / name).write_bytes(b"P")


def test_each_backbone_starts_from_its_own_file(settings: Settings, project: Path) -> None:
    two_backbones(project)
    asked = {**settings, "preset": "wide.yaml", "cells": "naive_triplet,small"}
    tiny = yaml.safe_load((project / "tiny.yaml").read_text())
    tiny["model"]["image_size"] = [64, 32]  # whole patches of both
    for choice in ({"vit_quickstart": "a.pth", "vit_small": "b.pth"}, {"vit_quickstart": "none", "vit_small": "b.pth"}):
        (project / "wide.yaml").write_text(yaml.safe_dump({**tiny, "name": "wide", "weights": choice}))
        for given in ({}, {"weights": choice}):
            study = plan({**asked, **given})
            first = choice["vit_quickstart"]
            assert study.refusals(gpu_limit=4, num_gpus=1) == []
            assert study.weights == (None if first == "none" else Path(first))
            files = {cell: study.weights_of(study.cell(cell).config) for cell in ("naive_triplet", "small")}
            assert files == {"naive_triplet": study.weights, "small": Path("b.pth")}
            for cell, file in files.items():
                assert train_spec(study, dataset="market1501", cell=cell, seed=0).weights == file
    lacking = plan({**asked, "weights": {"vit_small": "b.pth"}}).refusals(gpu_limit=4, num_gpus=1)
    assert "weights names no file for the backbone vit_quickstart of cell 'naive_triplet'" in lacking[0]
    gone = plan({**asked, "weights": {"vit_quickstart": "a.pth", "vit_small": "c.pth"}})
    assert "no weights at c.pth" in str(gone.refusals(gpu_limit=4, num_gpus=1))
    with pytest.raises(
        UserError, match=r"--config: weights: there is no backbone 'vit_smal'; did you mean 'vit_small'"
    ):
        plan({**asked, "weights": {"vit_smal": "b.pth"}})


def test_a_gpu_that_was_asked_for_must_be_there(settings: Settings) -> None:
    study = plan({**settings, "device": "cuda"})
    assert "can use no GPU here" in str(study.refusals(gpu_limit=None, num_gpus=0))
    assert study.refusals(gpu_limit=None, num_gpus=None) == []  # the jobs run on other machines


def test_gpus_of_a_training_must_divide_its_batch(settings: Settings, project: Path) -> None:
    path = project / "tiny.yaml"
    path.write_text(path.read_text().replace("gpu: 1", "gpu: 3"))
    study = plan(settings)
    for num_gpus in (3, 0, None):
        assert "has 8 images, which 3 GPUs cannot share equally" in str(study.refusals(gpu_limit=4, num_gpus=num_gpus))
    assert "asks for gpu=3 but only 2 can be used" in str(study.refusals(gpu_limit=4, num_gpus=2))
    assert plan({**settings, "device": "cpu"}).refusals(gpu_limit=4, num_gpus=2) == []


def test_selection_narrows_the_study(settings: Settings) -> None:
    study = plan({**settings, "cells": "p1, p1_rpe", "datasets": "market1501", "seeds": 5})
    wanted = ("naive_triplet", "p1", "p1_rpe")  # the first is what the others are compared with
    assert {(run.dataset, run.cell) for run in study.runs} == {("market1501", cell) for cell in wanted}
    assert any(notice.startswith("naive_triplet run") for notice in study.notices)
    assert sorted({run.seed for run in study.runs}) == [0, 1, 2, 3, 4]


def test_a_seed_offset_shifts_a_cells_seeds(settings: Settings, project: Path) -> None:
    (project / "ablations" / "again.yaml").write_text("name: again\nextends: naive_triplet\nseed_offset: 100\n")
    study = plan({**settings, "cells": "again"})
    assert sorted({run.seed for run in study.runs if run.cell == "again"}) == [100, 101]
    assert sorted({run.seed for run in study.runs if run.cell != "again"}) == [0, 1]


def test_more_seeds_or_cells_leave_the_configuration_of_a_run_alone(settings: Settings, project: Path) -> None:
    before = plan(settings).cell("p1")
    (project / "ablations" / "mine.yaml").write_text("name: mine\nextends: p1\n")
    assert plan({**settings, "seeds": 7}).cell("p1") == before


def test_the_place_of_data_and_results_is_not_science(settings: Settings) -> None:
    moved = plan({**settings, "data_root": "/elsewhere", "results": "out", "device": "cpu", "wandb": "offline"})
    assert [cell.config_hash for cell in moved.cells] == [cell.config_hash for cell in plan(settings).cells]


def test_a_plan_survives_its_own_file(settings: Settings) -> None:
    study = plan(settings)
    assert load_study(study.write()) == study


def test_a_plan_is_written_again_so_that_a_folder_no_longer_writable_is_found_before_the_first_job(
    settings: Settings,
) -> None:
    study = plan(settings)
    study.write().write_text("{")  # cut short
    assert load_study(study.write()) == study
    study.path.unlink()
    study.path.mkdir()
    (study.path / "in_the_way").touch()
    with pytest.raises(UserError, match=r"cannot write .*\.json: Is a directory"):
        study.write()


def test_wandb_off_in_yaml_is_a_boolean_and_means_disabled(settings: Settings) -> None:
    assert plan({**settings, "wandb": False}).settings.wandb == "disabled"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"cell": "p1"}, "unknown key 'cell'; did you mean 'cells'?"),
        ({"cells": "p1_rep"}, "there is no cell 'p1_rep'"),
        ({"datasets": "market"}, "there is no data set 'market' in dataset_table; did you mean 'market1501'?"),
        ({"preset": "papr"}, "there is no preset 'papr'; did you mean 'paper'?"),
        ({"seeds": 0}, "'seeds' is 0"),
        ({"device": "gpu"}, "'device' is 'gpu' but should be 'auto', 'cpu' or 'cuda'"),
        ({"ablations": "nowhere"}, "there is no folder nowhere"),
        ({"preset": "paper"}, "no data set was found for preset 'paper' (looked in data/market1501"),
        ({"preset": "nowhere.yaml"}, "nowhere.yaml is missing"),
        ({"cells": ","}, "--config cells: ',' names none; write all, or names separated by commas."),
        ({"datasets": " , "}, "--config datasets: ' , ' names none"),
        (
            {"cells": "p1,p2_patches_10"},
            "p2_patches.yaml, cell p2_patches_10 at preset 'tiny': "
            "losses.position_relation wants 10 patches but the grid of 4 x 2 has 8",
        ),
        ({"results": "my {results}"}, "results: 'my {results}/tiny' contains '{'; Snakemake gives braces a meaning"),
        ({"cells": ["p1", ["p2"]]}, "'cells' is"),
        ({"cells": 501}, "--config cells: 501 is not the name of a cell; put the name in quotes"),
        ({"cells": "q*"}, "there is no cell 'q*'"),
    ],
)
def test_a_wrong_setting_is_one_sentence(settings: Settings, change: Settings, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        plan({**settings, **change})
    assert sentence in str(caught.value)


def test_a_mistyped_metric_of_delta_is_named(settings: Settings) -> None:
    table = {name: {**entry, "delta": {"rank_1": 0.2}} for name, entry in settings["dataset_table"].items()}  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"delta\.rank_1' is 'rank_1' but should be 'mAP', .*'rank1'"):
        plan({**settings, "dataset_table": table})


def test_the_patches_of_a_grid_are_counted_on_every_data_set(settings: Settings, project: Path) -> None:
    special = "by_dataset: {occluded_duke: {losses: {position_relation: {patches: 10}}}}"
    (project / "ablations" / "mine.yaml").write_text(f"name: mine\nextends: p1_rpe_jsd\n{special}\n")
    with pytest.raises(UserError, match=r"mine\.yaml, by_dataset\.occluded_duke at preset 'tiny': .* wants 10 patches"):
        plan({**settings, "cells": "mine"})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"pretrain": {"train": {"epoch": 3}}},
            "tiny.yaml, pretrain: unknown key 'train.epoch'; did you mean 'epochs'?",
        ),
        ({"synthetic": {}}, "tiny.yaml: 'weights: pretrain' needs a data set 'pretrain' under 'synthetic'; add one."),
        ({"model": {"backbone": "vit_quickstart", "image_size": [32, 20]}}, "tiny.yaml: model: image_size 32 x 20 is"),
        ({"seeds": ".nan"}, "'seeds' is '.nan'"),
    ],
)
def test_a_slip_in_a_preset_is_found_while_planning(settings: Settings, change: Settings, sentence: str) -> None:
    preset = yaml.safe_load(Path("tiny.yaml").read_text())
    Path("tiny.yaml").write_text(yaml.safe_dump({**preset, **change}))
    with pytest.raises(UserError) as caught:
        plan(settings)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("dataset", "change", "sentence"),
    [
        ("market1501", {"gallery_ids": 5}, "every query identity must be in the gallery"),
        ("market1501", {"query_images": 100}, "100 images cannot be shared out to 6 identities"),
        ("pretrain", {"train_ids": 40}, "training needs at least two images an identity"),
    ],
)
def test_counts_that_no_procedural_set_can_have_are_found_while_planning(
    settings: Settings, dataset: str, change: dict[str, int], sentence: str
) -> None:
    preset = yaml.safe_load(Path("tiny.yaml").read_text())
    preset["synthetic"][dataset]["counts"] |= change
    Path("tiny.yaml").write_text(yaml.safe_dump(preset))
    with pytest.raises(UserError) as caught:
        plan(settings)
    assert f"preset 'tiny', synthetic.{dataset}: " in str(caught.value)
    assert sentence in str(caught.value)


def test_a_data_set_may_not_take_the_place_of_our_folders(settings: Settings) -> None:
    table = {"tables": {"title": "x", "format": "manifest", "folders": ["x"]}}
    with pytest.raises(UserError, match="'tables' is reserved"):
        plan({**settings, "dataset_table": table})


def test_asking_the_plan_for_what_it_lacks_is_a_sentence(settings: Settings) -> None:
    study: Study = plan({**settings, "cells": "p1"})
    with pytest.raises(UserError, match="the plan has no cell 'p2'"):
        study.cell("p2")


def test_runs_are_also_scored_on_the_other_data_sets_that_their_cells_ask_for(
    project: Path, settings: dict[str, object]
) -> None:
    path = project / "ablations" / "p1.yaml"
    path.write_text(path.read_text() + "evaluate: {also_on: all}\n")
    study = plan({**settings, "cells": "naive_triplet,p1", "seeds": 1})
    assert [transfer.id for transfer in study.transfers] == [
        "market1501/p1/seed0/on_occluded_duke",
        "occluded_duke/p1/seed0/on_market1501",
    ]
    path.write_text(path.read_text().replace("also_on: all", "also_on: occluded_duke"))
    study = plan({**settings, "cells": "naive_triplet,p1", "seeds": 1})
    assert [transfer.id for transfer in study.transfers] == ["market1501/p1/seed0/on_occluded_duke"]


def test_a_data_set_to_be_scored_on_that_is_no_part_of_the_study_is_left_out_with_a_notice(
    project: Path, settings: dict[str, object]
) -> None:
    path = project / "ablations" / "p1.yaml"
    path.write_text(path.read_text() + "evaluate: {also_on: [occluded_duke]}\n")
    study = plan({**settings, "cells": "p1", "datasets": "market1501"})
    assert study.transfers == []
    assert "Occluded-Duke is no part of this study" in study.notices[-1]
    assert "evaluate.also_on of p1" in study.notices[-1]
    path.write_text(path.read_text().replace("[occluded_duke]", "[ocluded_duke]"))
    with pytest.raises(UserError, match=r"also_on of p1: there is no data set 'ocluded_duke' .* 'occluded_duke'"):
        plan({**settings, "cells": "p1"})
