"""`reidablate test`: a weight file on a data set without training, with the very features of a run."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from reidablate.artifacts import read_json, read_npz
from reidablate.data.index import read_index
from reidablate.engine.from_plan import train_spec
from reidablate.engine.spec import RunSpec
from reidablate.engine.train import train_run
from reidablate.errors import UserError
from reidablate.models.checkpoints import save_weights
from reidablate.models.neck import ReidModel, initialise
from reidablate.planning import plan
from reidablate.study import Study
from support import ROOT, run_cli


@pytest.fixture(scope="module")
def runs(tiny_study: Study, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finished run of a cell without and of one with relative tables. Treat them as read-only."""
    folders = {}
    for cell in ("naive_triplet", "p1_rpe"):
        spec = train_spec(tiny_study, dataset="market1501", cell=cell, seed=0)
        folders[cell] = tmp_path_factory.mktemp("run") / cell
        train_run(RunSpec(**{**vars(spec), "out": folders[cell]}))
    return folders


def tried(study: Study, weights: Path, out: Path, *options: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        run_cli(
            *("test", str(weights), "--dataset", "market1501", "--results", str(study.root), "--out", str(out)),
            *("--device", "cpu", "--json", *options),
        )
    )
    return found


@pytest.mark.parametrize("cell", ["naive_triplet", "p1_rpe"])
def test_a_run_s_own_weights_give_its_own_features_and_scores_bit_for_bit(
    runs: dict[str, Path], cell: str, tiny_study: Study, tmp_path: Path
) -> None:
    named = ("--cell", cell) if cell == "p1_rpe" else ()
    found = tried(tiny_study, runs[cell] / "model.safetensors", tmp_path / "a.npz", *named)
    own, again = read_npz(runs[cell] / "features.npz"), read_npz(tmp_path / "a.npz")
    assert own.keys() == again.keys()
    for name, array in own.items():
        assert array.dtype == again[name].dtype
        assert array.tobytes() == again[name].tobytes(), name
    run_cli("evaluate", str(runs[cell]))
    metrics = read_json(runs[cell] / "metrics.json")
    for side in ("before_neck", "after_neck"):
        assert metrics[side].items() <= found[side].items()
    assert any(line.startswith("SYNTHETIC") for line in found["notes"])
    assert found["protocol"]["distance"] == "Euclidean on L2-normalised features"


def test_without_a_neck_there_is_no_feature_after_it(runs: dict[str, Path], tiny_study: Study, tmp_path: Path) -> None:
    state = load_file(runs["naive_triplet"] / "model.safetensors")
    torch.save({k: v for k, v in state.items() if not k.startswith("neck.")}, tmp_path / "bare.pth")
    found = tried(tiny_study, tmp_path / "bare.pth", tmp_path / "a.npz")
    assert "after_neck" not in found
    own, again = read_npz(runs["naive_triplet"] / "features.npz"), read_npz(tmp_path / "a.npz")
    assert set(own) - set(again) == {"query_after_neck", "gallery_after_neck"}
    assert own["query_before_neck"].tobytes() == again["query_before_neck"].tobytes()
    assert any("no BNNeck" in line for line in found["notes"])


def test_the_features_are_taken_by_import(runs: dict[str, Path], tiny_study: Study, tmp_path: Path) -> None:
    shutil.copytree(tiny_study.root, tmp_path / "tiny", ignore=shutil.ignore_patterns("images"))
    tried(tiny_study, runs["naive_triplet"] / "model.safetensors", tmp_path / "a.npz")
    said = run_cli(
        "import", "released", f"{tmp_path / 'a.npz'}", "--dataset", "market1501", "--results", f"{tmp_path / 'tiny'}"
    )
    assert "released on market1501: mAP" in said


@pytest.mark.parametrize(
    ("cell", "options", "words"),
    [
        ("p1_rpe", (), r"has backbone.blocks.0.attn.rpe.table, which the model lacks; .*--cell"),
        (
            "naive_triplet",
            ("--cell", "p1_rpe"),
            r"lacks backbone.blocks.0.attn.rpe.table, which the model has; .*--cell",
        ),
        ("naive_triplet", ("--preset", "paper"), "--results and --preset exclude each other"),
        ("naive_triplet", ("--cell", "p9"), "the plan has no cell 'p9'"),
    ],
)
def test_weights_of_another_network_are_refused(
    runs: dict[str, Path], cell: str, options: tuple[str, ...], words: str, tiny_study: Study, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=words):
        tried(tiny_study, runs[cell] / "model.safetensors", tmp_path / "a.npz", *options)
    assert not (tmp_path / "a.npz").exists()


def published(state: dict[str, torch.Tensor], depth: int) -> dict[str, torch.Tensor]:
    """Returns the tensors of a `transreid` run as TransReID's code saves them."""
    theirs = {
        rf"backbone\.blocks\.{depth - 1}\.": "b1.0.",
        r"backbone\.norm\.": "b1.1.",
        r"local_features\.block\.": "b2.0.",
        r"local_features\.norm\.": "b2.1.",
        r"neck\.": "bottleneck.",
        r"backbone\.ape\.table": "base.pos_embed",
        r"backbone\.stem\.projection": "base.patch_embed.proj",
        r"backbone\.parts\.camera_embedding\.table": "base.sie_embed",
        r"backbone\.": "base.",
    }
    for number in range(4):
        theirs[rf"local_features\.necks\.{number}\."] = f"bottleneck_{number + 1}."
        theirs[rf"local_features\.classifiers\.{number}\."] = f"classifier_{number + 1}."
    found = {}
    for name, value in state.items():
        spelt = next((re.sub(f"^{ours}", to, name) for ours, to in theirs.items() if re.match(ours, name)), name)
        found[spelt] = value[None] if spelt == "base.pos_embed" else value
    for name in [name for name in found if name.startswith(("b1.0.", "b1.1."))]:  # what they copy from and never run
        copied = name.replace("b1.0.", f"base.blocks.{depth - 1}.").replace("b1.1.", "base.norm.")
        found[copied] = torch.full_like(found[name], 7)
    return found


def test_a_file_with_transreid_s_own_names_gives_the_features_of_its_cell(tiny_study: Study, tmp_path: Path) -> None:
    changes = {"preset": f"{ROOT / 'tests' / 'tiny.yaml'}", "cells": "transreid", "results": f"{tmp_path}"}
    study = plan({**tiny_study.settings.model_dump(mode="json"), **changes})
    study.root.mkdir(parents=True)
    (study.root / "data").symlink_to(tiny_study.root / "data")
    study.write()
    train = read_index(study.data_folder("market1501") / "index").frame.query("split == 'train'")
    cameras = tuple(sorted(set(train["camid"])))
    model = ReidModel(study.cell("transreid").config.model, num_classes=3, cameras=cameras)
    initialise(model, 0)
    save_weights(model, tmp_path / "own.safetensors")
    state, path = load_file(tmp_path / "own.safetensors"), tmp_path / "theirs.pth"
    depth = len(model.backbone.blocks)
    torch.save(published(state, depth), path)
    out = {name: tmp_path / f"{name}.npz" for name in ("own", "theirs", "global")}
    tried(study, tmp_path / "own.safetensors", out["own"], "--cell", "transreid")
    notes = tried(study, path, out["theirs"], "--cell", "transreid")["notes"]
    assert not any("trained with" in note for note in notes)
    own, theirs = read_npz(out["own"]), read_npz(out["theirs"])
    assert own["query_after_neck"].shape[1] == 5 * model.backbone.width
    for name, array in own.items():
        assert array.tobytes() == theirs[name].tobytes(), name

    notes = tried(study, path, out["global"])["notes"]  # by the network of the preset, which has neither
    assert sum("note: trained with" in note for note in notes) == 2
    assert read_npz(out["global"])["query_after_neck"].shape[1] == model.backbone.width
    torch.save(published(state, depth) | {"base.sie_embed": torch.zeros(9, 1, model.backbone.width)}, path)
    with pytest.raises(UserError, match=r"lacks backbone\.parts\.camera_embedding\.table, which the model has"):
        tried(study, path, tmp_path / "none.npz", "--cell", "transreid")


def test_outside_a_study_it_says_how_to_make_or_name_one(
    runs: dict[str, Path], tiny_study: Study, project: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    shutil.copyfile(runs["naive_triplet"] / "model.safetensors", elsewhere / "w.safetensors")
    shutil.copytree(tiny_study.root / "data" / "market1501" / "images", project / "results/tiny/data/market1501/images")
    os.chdir(elsewhere)
    asked = ("test", "w.safetensors", "--dataset", "market1501", "--device", "cpu")
    with pytest.raises(UserError, match=r"name one with --study DIR, or make one with `reidablate init DIR`"):
        run_cli(*asked)
    run_cli(*asked, "--preset", "tiny.yaml", "--study", str(project))
    own = read_npz(runs["naive_triplet"] / "features.npz")
    assert read_npz(elsewhere / "features.npz")["query_before_neck"].tobytes() == own["query_before_neck"].tobytes()


def test_index_and_cache_are_built_where_a_run_looks_for_them(
    runs: dict[str, Path], tiny_study: Study, project: Path
) -> None:
    weights = str(runs["naive_triplet"] / "model.safetensors")
    shutil.copytree(tiny_study.root / "data" / "market1501" / "images", project / "results/tiny/data/market1501/images")
    said = run_cli("test", weights, "--dataset", "market1501", "--preset", "tiny.yaml", "--device", "cpu")
    assert "SYNTHETIC images" in said
    assert "average precision: step sum" in said
    own, again = read_npz(runs["naive_triplet"] / "features.npz"), read_npz(project / "features.npz")
    assert all(array.tobytes() == again[name].tobytes() for name, array in own.items())
    folder = project / "results" / "tiny" / "data" / "market1501"
    fingerprint = read_index(tiny_study.data_folder("market1501") / "index").summary["fingerprint"]
    assert read_index(folder / "index").summary["fingerprint"] == fingerprint
    assert (folder / "cache" / "cache.json").is_file()
    with pytest.raises(UserError, match=r"features.npz is there already"):
        run_cli("test", weights, "--dataset", "market1501", "--preset", "tiny.yaml")
