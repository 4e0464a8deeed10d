"""Weight files: the exact names and shapes of TransReID-SSL, refusals by name, resizing, round trips (a8)."""

import argparse
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from reidablate.artifacts import sha256_file
from reidablate.config import ModelConfig
from reidablate.errors import UserError
from reidablate.models.checkpoints import convert, load_weights, save_weights
from reidablate.models.neck import ReidModel, initialise
from reidablate.models.position_tables import infer_grid, resize_positions
from support import our_name, present

STEM_SHAPES: dict[str, tuple[int, ...]] = {
    "conv.0.weight": (64, 3, 7, 7),
    **{
        f"conv.{i}.{name}": shape
        for i in (1, 4)
        for name, shape in {
            "IN.weight": (32,),
            "IN.bias": (32,),
            "BN.weight": (32,),
            "BN.bias": (32,),
            "BN.running_mean": (32,),
            "BN.running_var": (32,),
            "BN.num_batches_tracked": (),
        }.items()
    },
    "conv.3.weight": (64, 64, 3, 3),
    "conv.6.weight": (64, 64, 3, 3),
    "conv.7.weight": (64,),
    "conv.7.bias": (64,),
    "conv.7.running_mean": (64,),
    "conv.7.running_var": (64,),
    "conv.7.num_batches_tracked": (),
    "proj.weight": (384, 64, 8, 8),
    "proj.bias": (384,),
}
BLOCK_SHAPES: dict[str, tuple[int, ...]] = {
    "norm1.weight": (384,),
    "norm1.bias": (384,),
    "attn.qkv.weight": (1152, 384),
    "attn.qkv.bias": (1152,),
    "attn.proj.weight": (384, 384),
    "attn.proj.bias": (384,),
    "norm2.weight": (384,),
    "norm2.bias": (384,),
    "mlp.fc1.weight": (1536, 384),
    "mlp.fc1.bias": (1536,),
    "mlp.fc2.weight": (384, 1536),
    "mlp.fc2.bias": (384,),
}


def _dino_backbone() -> dict[str, Tensor]:
    """The backbone of a ViT-S with convolution stem trained at 256x128; tensor i holds the number i everywhere."""
    shapes: dict[str, tuple[int, ...]] = {"cls_token": (1, 1, 384), "pos_embed": (1, 129, 384)}
    shapes |= {f"patch_embed.{name}": shape for name, shape in STEM_SHAPES.items()}
    shapes |= {f"blocks.{i}.{name}": shape for i in range(12) for name, shape in BLOCK_SHAPES.items()}
    shapes |= {"norm.weight": (384,), "norm.bias": (384,)}
    assert len(shapes) == 172
    # An expanded number keeps the file small: torch.save writes one element.
    return {
        name: torch.tensor(i if name.endswith("tracked") else float(i)).expand(shape)
        for i, (name, shape) in enumerate(shapes.items())
    }


def _plus_one(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Adds 1 to tensors that hold one number each, keeping them expanded."""
    return {name: (value.as_strided((), ()) + 1).expand(value.shape) for name, value in tensors.items()}


def _dino_file(backbone: dict[str, Tensor], path: Path, form: str) -> Path:
    head = {"head.mlp.0.weight": torch.zeros(2, 2), "head.last_layer.weight_g": torch.zeros(2, 1)}
    prefixed = {f"backbone.{name}": value for name, value in backbone.items()}
    contents: dict[str, Any] = {
        "dino_parallel": {
            "student": {f"module.{name}": value for name, value in (prefixed | head).items()},
            "teacher": {f"module.{name}": value for name, value in _plus_one(prefixed | head).items()},
            "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]},
            "epoch": 100,
            "args": argparse.Namespace(arch="vit_small", lr=0.0005, global_crops_scale=(0.4, 1.0)),
            "dino_loss": {"center": torch.zeros(1, 2)},
        },
        "dino_plain": {"teacher": _plus_one(prefixed | head)},
        "converted": _plus_one(backbone),
        "with_legacy_head": {
            "model": _plus_one(backbone) | {"fc.weight": torch.zeros(1000, 384), "fc.bias": torch.zeros(1000)}
        },
    }
    torch.save(contents[form], path)
    return path


@pytest.fixture(scope="module")
def vit_small() -> ReidModel:
    return ReidModel(ModelConfig(backbone="vit_small", image_size=(256, 128)), num_classes=5)


@pytest.mark.parametrize("form", ["dino_parallel", "dino_plain", "converted", "with_legacy_head"])
def test_transreid_ssl_file_loads_in_every_form(form: str, vit_small: ReidModel, tmp_path: Path) -> None:
    backbone = _dino_backbone()
    path = _dino_file(backbone, tmp_path / "weights.pth", form)
    report = load_weights(vit_small, path)
    state = vit_small.state_dict()
    for theirs, value in backbone.items():
        assert (state[our_name(theirs)] == value.flatten()[0] + 1).all(), theirs
    assert (len(report.loaded), report.resized, report.sha256) == (172, (), sha256_file(path))
    assert report.ignored == (("fc.weight", "fc.bias") if form == "with_legacy_head" else ())
    assert {name.split(".")[0] for name in report.missing} == {"neck", "classifier"}
    assert not report.is_exact


@pytest.mark.parametrize("form", ["dino_parallel", "converted"])
@pytest.mark.parametrize(
    ("key", "change", "complaint"),
    [
        ("patch_embed.conv.4.IN.weight", None, r"missing: patch_embed\.conv\.4\.IN\.weight\)"),
        ("blocks.12.norm1.weight", (384,), r"unexpected: blocks\.12\.norm1\.weight\)"),
        (
            "blocks.3.attn.qkv.weight",
            (1152, 385),
            r"another shape: blocks\.3\.attn\.qkv\.weight \(1152, 385\) instead of",
        ),
        ("pos_embed", (1, 129, 385), r"another shape: pos_embed \(129, 385\) instead of \(129, 384\)"),
        ("patch_embed.proj.weight", (384, 64, 16, 16), r"another shape: patch_embed\.proj\.weight"),
    ],
)
def test_missing_extra_and_misshaped_keys_are_refused_by_name(
    form: str, key: str, change: tuple[int, ...] | None, complaint: str, vit_small: ReidModel, tmp_path: Path
) -> None:
    backbone = _dino_backbone()
    backbone.pop(key, None)
    if change is not None:
        backbone[key] = torch.tensor(0.0).expand(change)
    before = vit_small.backbone.cls_token.detach().clone().fill_(0.5)
    vit_small.backbone.cls_token.data.fill_(0.5)
    with pytest.raises(UserError, match=complaint):
        load_weights(vit_small, _dino_file(backbone, tmp_path / "weights.pth", form))
    assert torch.equal(vit_small.backbone.cls_token, before)


def test_wrong_keys_are_counted_and_the_first_five_named_in_one_sentence(vit_small: ReidModel, tmp_path: Path) -> None:
    backbone = {name: value for name, value in _dino_backbone().items() if "conv" not in name}
    backbone["surprise"] = torch.zeros(1)
    with pytest.raises(UserError) as caught:
        load_weights(vit_small, _dino_file(backbone, tmp_path / "weights.pth", "converted"))
    absent = [f"patch_embed.{name}" for name in STEM_SHAPES if "conv" in name]
    said = re.search(r"\((\d+) missing: (.*), \.\.\.; 1 unexpected: surprise\)", str(caught.value))
    assert said is not None
    assert int(said[1]) == len(absent)
    assert len(named := said[2].split(", ")) == 5
    assert set(named) < set(absent)
    assert "stem conv" in str(caught.value)
    assert "\n" not in str(caught.value)


def _model(num_classes: int = 5, seed: int = 0, **options: Any) -> ReidModel:
    small = {"backbone": "vit_quickstart", "image_size": (48, 32)}
    model = ReidModel(ModelConfig.model_validate(small | options), num_classes=num_classes)
    initialise(model, seed)
    return model


def _timm_state(model: ReidModel, positions: Tensor) -> dict[str, Tensor]:
    """The backbone of a model with a one-convolution stem under timm's names, with other position rows."""
    state = {name.removeprefix("backbone."): value for name, value in model.backbone.state_dict().items()}
    state["patch_embed.proj.weight"] = state.pop("stem.projection.weight")
    state["patch_embed.proj.bias"] = state.pop("stem.projection.bias")
    del state["ape.table"]
    return state | {"pos_embed": positions[None]}


def test_resize_interpolates_along_the_right_axis() -> None:
    # Row positions of 4 from 2 rows: (i + 1/2) / 2 - 1/2 = -1/4, 1/4, 3/4, 5/4, clamped to 0 .. 1.
    table = torch.tensor([[7.0], *[[10.0 * row + column] for row in range(2) for column in range(3)]])
    taller = [7.0, *[10 * row + column for row in (0, 0.25, 0.75, 1) for column in range(3)]]
    torch.testing.assert_close(resize_positions(table, (2, 3), (4, 3)).flatten(), torch.tensor(taller))
    # Column positions of 6 from 3 columns: -1/4, 1/4, 3/4, 5/4, 7/4, 9/4, clamped to 0 .. 2.
    wider = [7.0, *[10 * row + column for row in range(2) for column in (0, 0.25, 0.75, 1.25, 1.75, 2)]]
    torch.testing.assert_close(resize_positions(table, (2, 3), (2, 6)).flatten(), torch.tensor(wider))


@pytest.mark.parametrize(
    ("num_patches", "ratio", "grid"),
    [(128, None, (16, 8)), (128, 2, (16, 8)), (196, None, (14, 14)), (32, None, (8, 4)), (192, None, (24, 8))],
)
def test_grid_of_a_checkpoint(num_patches: int, ratio: int | None, grid: tuple[int, int]) -> None:
    assert infer_grid(num_patches, hw_ratio=ratio, where="file") == grid


@pytest.mark.parametrize(("num_patches", "ratio"), [(196, 2), (127, None), (128, 1)])
def test_position_rows_that_are_no_grid_are_refused(num_patches: int, ratio: int | None) -> None:
    with pytest.raises(UserError, match=rf"^file: {num_patches} position rows"):
        infer_grid(num_patches, hw_ratio=ratio, where="file")


def test_positions_of_another_grid_are_resized_with_cls_kept(tmp_path: Path) -> None:
    model = _model(stem="conv")
    positions = torch.randn(1 + 8, 32, generator=torch.Generator().manual_seed(0))
    torch.save(_timm_state(model, positions), tmp_path / "timm.pth")
    report = load_weights(model, tmp_path / "timm.pth")
    assert report.resized == ("backbone.ape.table",)
    rows = model.ape_rows()
    assert rows is not None
    assert torch.equal(rows[0], positions[0])
    assert torch.equal(rows, resize_positions(positions, (4, 2), (6, 4)))


def test_distillation_token_and_its_position_are_left_out(tmp_path: Path) -> None:
    model = _model(stem="conv")
    positions = torch.randn(2 + 24, 32, generator=torch.Generator().manual_seed(0))
    state = _timm_state(model, positions) | {
        "dist_token": torch.zeros(1, 1, 32),
        "head_dist.weight": torch.zeros(9, 32),
    }
    torch.save(state, tmp_path / "deit.pth")
    assert set(load_weights(model, tmp_path / "deit.pth").ignored) == {"dist_token", "head_dist.weight"}
    assert torch.equal(present(model.backbone.ape).table, torch.cat([positions[:1], positions[2:]]))


def test_patch_projection_kept_as_a_matrix_is_reshaped(tmp_path: Path) -> None:
    source, model = _model(stem="conv", seed=1), _model(stem="conv")
    state = _timm_state(source, torch.zeros(25, 32))
    state["patch_embed.proj.weight"] = state["patch_embed.proj.weight"].flatten(1)
    torch.save(state, tmp_path / "old.pth")
    load_weights(model, tmp_path / "old.pth")
    assert torch.equal(*(one.get_parameter("backbone.stem.projection.weight") for one in (model, source)))


@pytest.mark.parametrize("ape", ["none", "sinusoidal"])
def test_positions_are_ignored_by_a_model_that_learns_none(ape: str, tmp_path: Path) -> None:
    model = _model(stem="conv")
    torch.save(_timm_state(model, torch.zeros(25, 32)), tmp_path / "timm.pth")
    assert load_weights(_model(stem="conv", ape=ape), tmp_path / "timm.pth").ignored == ("pos_embed",)


def test_timm_safetensors_load_like_the_torch_file(tmp_path: Path) -> None:
    source = _model(stem="conv", seed=1)
    save_file(_timm_state(source, present(source.backbone.ape).table.detach()), tmp_path / "timm.safetensors")
    model = _model(stem="conv")
    load_weights(model, tmp_path / "timm.safetensors")
    for name, value in source.backbone.state_dict().items():
        assert torch.equal(value, model.backbone.state_dict()[name]), name


def test_saved_weights_come_back_bit_for_bit(tmp_path: Path) -> None:
    options: dict[str, Any] = {"rpe": {"kind": "abs_x"}, "cls_position": "untie"}
    saved, model = _model(seed=1, **options), _model(seed=2, **options)
    saved(torch.randn(4, 3, 48, 32, generator=torch.Generator().manual_seed(0)))
    save_weights(saved, tmp_path / "model.safetensors")
    report = load_weights(model, tmp_path / "model.safetensors")
    assert report.is_exact
    for name, value in saved.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    assert saved.neck.running_mean is not None
    assert saved.neck.running_mean.any()


def test_equal_weights_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("first", "second"):
        save_weights(_model(), tmp_path / f"{name}.safetensors")
    assert (tmp_path / "first.safetensors").read_bytes() == (tmp_path / "second.safetensors").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first.safetensors", "second.safetensors"]


def test_fine_tuning_starts_with_new_head_and_keeps_its_own_tables(tmp_path: Path) -> None:
    pretrained = _model(seed=1)
    save_weights(pretrained, tmp_path / "pretrained.safetensors")
    fresh = _model(rpe={"kind": "full"}, cls_position="untie")
    model = _model(rpe={"kind": "full"}, cls_position="untie")
    report = load_weights(model, tmp_path / "pretrained.safetensors", head=False)
    kept = {name for name in model.state_dict() if name.startswith(("neck", "classifier")) or ".attn.rpe" in name}
    kept |= {f"backbone.blocks.{i}.attn.cls_position.table" for i in (0, 1)}
    assert set(report.missing) == kept
    assert {name.split(".")[0] for name in report.ignored} == {"neck", "classifier"}
    for name, value in model.state_dict().items():
        assert torch.equal(value, (fresh if name in kept else pretrained).state_dict()[name]), name


def test_classifier_of_another_number_of_classes_is_ignored(tmp_path: Path) -> None:
    save_weights(_model(num_classes=7), tmp_path / "seven.safetensors")
    report = load_weights(_model(num_classes=5), tmp_path / "seven.safetensors")
    assert (report.ignored, report.missing) == (("classifier.weight",), ("classifier.weight",))


def test_relative_tables_of_another_kind_are_ignored_and_named(tmp_path: Path) -> None:
    tables = tuple(f"backbone.blocks.{i}.attn.rpe.table" for i in (0, 1))
    save_weights(_model(rpe={"kind": "full"}), tmp_path / "full.safetensors")
    assert set(load_weights(_model(), tmp_path / "full.safetensors").ignored) == set(tables)
    other = load_weights(_model(rpe={"kind": "y_only"}), tmp_path / "full.safetensors")
    assert (set(other.ignored), set(other.missing)) == (set(tables), set(tables))


def test_own_file_of_a_turned_grid_is_resized_although_the_number_of_rows_agrees(tmp_path: Path) -> None:
    upright, lying = _model(), _model(image_size=(32, 48), seed=1)
    save_weights(upright, tmp_path / "upright.safetensors")
    assert load_weights(lying, tmp_path / "upright.safetensors").resized == ("backbone.ape.table",)
    expected = resize_positions(present(upright.backbone.ape).table, (6, 4), (4, 6))
    assert torch.equal(present(lying.backbone.ape).table, expected)


def test_converted_file_loads_like_its_source(vit_small: ReidModel, tmp_path: Path) -> None:
    source = _dino_file(_dino_backbone(), tmp_path / "dino.pth", "dino_parallel")
    tall = ReidModel(ModelConfig(backbone="vit_small", image_size=(384, 128)), num_classes=5)
    convert(source, tmp_path / "converted.safetensors")
    assert len(load_file(tmp_path / "converted.safetensors")) == 172
    report = load_weights(vit_small, tmp_path / "converted.safetensors")
    assert (len(report.loaded), report.resized, report.ignored) == (172, (), ())
    assert (
        vit_small.get_parameter("backbone.stem.norm3.weight") == _dino_backbone()["patch_embed.conv.7.weight"][0] + 1
    ).all()
    assert load_weights(tall, tmp_path / "converted.safetensors").resized == ("backbone.ape.table",)


def test_only_a_transformer_is_converted(tmp_path: Path) -> None:
    torch.save({"layer1.weight": torch.zeros(2)}, tmp_path / "resnet.pth")
    with pytest.raises(UserError, match="holds no 'pos_embed'"):
        convert(tmp_path / "resnet.pth", tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


class _Malicious:
    """Writes a file when unpickled by a loader that runs code."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def _broken_file(kind: str, folder: Path) -> Path:
    model = _model(stem="conv")
    state = _timm_state(model, torch.zeros(25, 32))
    torch_file, own_file = folder / "weights.pth", folder / "model.safetensors"
    torch.save(state, torch_file)
    save_weights(model, own_file)
    match kind:
        case "missing":
            return folder / "nowhere.pth"
        case "folder":
            return folder
        case "truncated torch":
            torch_file.write_bytes(torch_file.read_bytes()[:-2000])
        case "truncated safetensors":
            own_file.write_bytes(own_file.read_bytes()[:-2000])
            return own_file
        case "text":
            torch_file.write_text("not weights at all\n")
        case "text safetensors":
            own_file.write_text("not weights at all\n")
            return own_file
        case "empty":
            torch_file.write_bytes(b"")
        case "pickle":
            torch_file.write_bytes(pickle.dumps(_Malicious(folder / "ran"), protocol=2))
        case "torch with code":
            torch.save({"model": _Malicious(folder / "ran")}, torch_file)
        case "no tensors":
            torch.save({"epoch": 3}, torch_file)
        case "number":
            torch.save(3, torch_file)
    return torch_file


@pytest.mark.parametrize(
    "kind",
    [
        "missing",
        "folder",
        "truncated torch",
        "truncated safetensors",
        "text",
        "text safetensors",
        "empty",
        "pickle",
        "torch with code",
        "no tensors",
        "number",
    ],
)
def test_file_that_is_no_checkpoint_is_refused_in_one_sentence(kind: str, tmp_path: Path) -> None:
    path = _broken_file(kind, tmp_path)
    with pytest.raises(UserError, match=f"^{path} ") as caught:
        load_weights(_model(stem="conv"), path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()
