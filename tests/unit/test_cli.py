"""Commands that no stage of the workflow calls."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from reidablate.cli import app
from reidablate.errors import UserError


def run(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_cells_are_listed_by_group_with_their_whole_names(project: Path) -> None:
    lines = run("cells", "list", "--tier", "all").splitlines()
    titles = [line.strip() for line in lines if line.strip().isidentifier()]
    assert titles[0] == "main"
    assert titles == list(dict.fromkeys(titles))
    assert {"as_run", "positions", "negative_results"} <= set(titles)
    names = [line.split("│")[1].strip() for line in lines if line.startswith("│")]
    names = [name for name in names if name]
    assert "p2_pairs_combinations_with_replacement" in names
    assert names[:3] == ["naive_triplet", "p1", "p1_rpe"]
    assert "p1_as_run" not in run("cells", "list", "--tier", "core")


def test_a_checkpoint_is_converted_under_our_names(tmp_path: Path) -> None:
    theirs = {
        "pos_embed": torch.arange(9.0).reshape(1, 9, 1).expand(1, 9, 4),
        "patch_embed.proj.weight": torch.ones(4, 3, 8, 8),
        "fc.weight": torch.zeros(1000, 4),
    }
    torch.save({"teacher": {f"module.backbone.{name}": value for name, value in theirs.items()}}, tmp_path / "a.pth")
    assert "b.safetensors written" in run("weights", "convert", tmp_path / "a.pth", tmp_path / "b.safetensors")
    converted = load_file(tmp_path / "b.safetensors")
    assert set(converted) == {"backbone.ape.table", "backbone.stem.projection.weight"}
    assert converted["backbone.ape.table"][:, 0].tolist() == list(range(9))


def test_a_destination_that_loading_would_not_know_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"should end in \.safetensors"):
        run("weights", "convert", tmp_path / "a.pth", tmp_path / "b.pth")
