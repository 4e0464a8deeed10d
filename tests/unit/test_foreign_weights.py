"""Files of other code bases: every tensor where it belongs, at both sizes; broken ones leave the model alone."""

import gzip
import itertools
import json
import os
import random
import re
import sys
import tarfile
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from safetensors.torch import save_file
from torch import Tensor

import fake_weights as fake
from reidablate.cli import main
from reidablate.config import ModelConfig
from reidablate.errors import UserError
from reidablate.models.checkpoints import convert, load_weights, save_weights
from reidablate.models.neck import ReidModel, initialise
from reidablate.places import packaged
from support import our_name, present, run_cli

SIZES = {(256, 128): (16, 8), (384, 128): (24, 8)}


@cache
def shared(height: int, stem: str) -> ReidModel:
    return ReidModel(ModelConfig(backbone="vit_small", image_size=(height, 128), stem=stem), num_classes=751)  # type: ignore[arg-type]


def model_for(height: int, stem: str) -> ReidModel:
    """A model without a number of the fake files in it."""
    model = shared(height, stem)
    for value in model.state_dict().values():
        value.fill_(-1)
    return model


def rows_on(table: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Position rows (1 + g, D) interpolated along their two axes, written out."""
    patches = table[1:].reshape(1, *old, -1).permute(0, 3, 1, 2)
    resized = patches if old == new else F.interpolate(patches, new, mode="bilinear", align_corners=False)
    return torch.cat([table[:1], resized.permute(0, 2, 3, 1).reshape(new[0] * new[1], -1)])


def assert_loaded(model: ReidModel, transformer: dict[str, Tensor], *, old: tuple[int, int], special: int = 1) -> None:
    """Asserts that the model holds this transformer, tensor by tensor, and nothing else in its backbone."""
    state = model.state_dict()
    assert {our_name(name) for name in transformer} == {name for name in state if name.startswith("backbone.")}
    for name, value in transformer.items():
        if name != "pos_embed":
            assert (state[our_name(name)] == value.flatten()[0]).all(), name
    table = transformer["pos_embed"][0]
    expected = rows_on(torch.cat([table[:1], table[special:]]), old, model.backbone.grid)
    torch.testing.assert_close(state["backbone.ape.table"], expected, rtol=0, atol=1e-6)


PATCHES = {128: (16, 8), 192: (24, 8), 196: (14, 14)}
FORMS: dict[str, tuple[Callable[[int], Any], str, tuple[int, ...], int]] = {
    # name: (file of g patches, stem, numbers of patches, special tokens)
    "TransReID, fine-tuned": (lambda g: fake.transreid(g, cameras=6), "conv", (128, 192), 1),
    "TransReID-SSL, fine-tuned": (lambda g: fake.transreid(g, stem="ics"), "ics", (128, 192), 1),
    "TransReID-SSL, pre-trained": (lambda g: fake.dino(g, stem="ics"), "ics", (128,), 1),
    "DINO": (lambda g: fake.dino(g, stem="conv", parallel=False), "conv", (196,), 1),
    "MAE": (fake.mae, "conv", (196,), 1),
    "DeiT, distilled": (fake.deit, "conv", (196,), 2),
    "timm": (fake.timm, "conv", (196,), 1),
    "Lightning": (lambda g: fake.lightning(fake.transreid(g)), "conv", (128,), 1),
    "an unknown prefix": (lambda g: fake.prefixed(fake.timm(g), "my.encoder."), "conv", (196,), 1),
    "NumPy scalars": (lambda g: fake.torchreid(fake.timm(g)), "conv", (196,), 1),
    "compiled": (lambda g: fake.prefixed(fake.timm(g), "_orig_mod.module."), "conv", (196,), 1),
    "an unknown wrapper": (lambda g: {"ema_weights": fake.timm(g), "epoch": 3}, "conv", (196,), 1),
}


@pytest.mark.parametrize(
    ("form", "patches", "size"), [(f, g, s) for f, (_, _, gs, _) in FORMS.items() for g in gs for s in SIZES]
)
def test_released_files_load_with_the_values_where_they_belong(
    form: str, patches: int, size: tuple[int, int], tmp_path: Path
) -> None:
    make, stem, _, special = FORMS[form]
    model = model_for(size[0], stem)
    report = load_weights(model, fake.saved(make(patches), tmp_path / "weights.pth"))
    assert_loaded(model, fake.transformer(patches, stem=stem, special=special), old=PATCHES[patches], special=special)
    assert report.positions == (PATCHES[patches], SIZES[size])
    assert report.has_neck == ("TransReID, " in form or "SSL, fine" in form or form == "Lightning")


@pytest.mark.parametrize("prefix", ["", "module.", "model."])
def test_a_fine_tuned_file_brings_its_neck_and_classifier(prefix: str, tmp_path: Path) -> None:
    content = fake.transreid()
    model = model_for(256, "conv")
    report = load_weights(model, fake.saved(fake.prefixed(content, prefix), tmp_path / "weights.pth"))
    for name in fake.NECK:
        assert (model.state_dict()[f"neck.{name}"] == content[f"bottleneck.{name}"].flatten()[0]).all(), name
    assert (model.classifier.weight == content["classifier.weight"][0, 0]).all()
    assert report.missing == ()
    model = model_for(256, "conv")
    load_weights(model, tmp_path / "weights.pth", head=False)
    assert (model.neck.weight == -1).all()


def test_jigsaw_parts_are_left_out_and_the_global_branch_is_the_last_block(tmp_path: Path) -> None:
    content = fake.transreid(cameras=6, parts=True)
    model = model_for(256, "conv")
    report = load_weights(model, fake.saved(content, tmp_path / "weights.pth"))
    expected = fake.transformer(128)
    expected |= {f"blocks.11.{name}": content[f"b1.0.{name}"] for name in fake.BLOCK}
    expected |= {f"norm.{name}": content[f"b1.1.{name}"] for name in ("weight", "bias")}
    assert_loaded(model, expected, old=(16, 8))
    assert bool(torch.all(present(model.neck.running_var) == content["bottleneck.running_var"][0]))
    ignored = {name.split(".")[0] for name in report.ignored}
    assert ignored == {
        "sie_embed",
        "fc",
        "b2",
        *(f"{part}_{i}" for part in ("bottleneck", "classifier") for i in "1234"),
    }
    assert len(report.notes) == 2


def test_a_model_with_jigsaw_parts_and_camera_embedding_takes_all_of_a_file_that_was_trained_with_them(
    tmp_path: Path,
) -> None:
    path, content = tmp_path / "weights.pth", fake.transreid(cameras=6, parts=True)
    options = {"parts": {"camera_embedding": {}}, "local_features": {"use": "jigsaw"}}
    config = ModelConfig.model_validate({"backbone": "vit_small", "image_size": (256, 128), "stem": "conv", **options})
    model = ReidModel(config, num_classes=751, cameras=(1, 2, 3, 4, 5, 6))
    report = load_weights(model, fake.saved(content, path))
    assert report.notes == ()
    assert report.missing == ()
    assert set(report.ignored) == {"fc.weight", "fc.bias"}
    state = model.state_dict()
    expected = {f"backbone.blocks.11.{name}": f"b1.0.{name}" for name in fake.BLOCK}
    expected |= {f"local_features.block.{name}": f"b2.0.{name}" for name in fake.BLOCK}
    for end in ("weight", "bias"):
        expected |= {f"backbone.norm.{end}": f"b1.1.{end}", f"local_features.norm.{end}": f"b2.1.{end}"}
    for number in range(4):
        expected[f"local_features.classifiers.{number}.weight"] = f"classifier_{number + 1}.weight"
        expected |= {f"local_features.necks.{number}.{n}": f"bottleneck_{number + 1}.{n}" for n in fake.NECK}
    expected["backbone.parts.camera_embedding.table"] = "base.sie_embed"
    for ours, theirs in expected.items():
        assert state[ours].shape == content[theirs].shape, ours
        assert (state[ours] == content[theirs].flatten()[0]).all(), ours

    load_weights(model, path, head=False)  # a training starts anew
    block, last = (state[f"{place}.norm1.weight"] for place in ("local_features.block", "backbone.blocks.11"))
    assert torch.equal(block, last)


@pytest.mark.parametrize("height", [256, 384])
def test_timm_safetensors_load_under_any_suffix(height: int, tmp_path: Path) -> None:
    tensors = {name: value.contiguous().half() for name, value in fake.timm().items()}
    save_file(tensors, tmp_path / "weights.bin")
    model = model_for(height, "conv")
    load_weights(model, tmp_path / "weights.bin")
    expected = fake.transformer(196) | {"pos_embed": fake.positions(197).half().float()}
    assert_loaded(model, expected, old=(14, 14))


def test_a_converted_fine_tuned_file_keeps_its_neck(tmp_path: Path) -> None:
    convert(fake.saved(fake.transreid(192, stem="ics"), tmp_path / "a.pth"), tmp_path / "b.safetensors")
    model = model_for(384, "ics")
    assert load_weights(model, tmp_path / "b.safetensors").is_exact
    assert_loaded(model, fake.transformer(192, stem="ics"), old=(24, 8))


def small(image_size: tuple[int, int] = (48, 32), seed: int = 0) -> ReidModel:
    model = ReidModel(ModelConfig(backbone="vit_quickstart", image_size=image_size, stem="conv"), num_classes=5)
    initialise(model, seed)
    return model


def timm_state(model: ReidModel, patches: int) -> dict[str, Tensor]:
    """The model's weights under timm's names, with other position rows."""
    state = {name.removeprefix("backbone."): value for name, value in model.backbone.state_dict().items()}
    for part in ("weight", "bias"):
        state[f"patch_embed.proj.{part}"] = state.pop(f"stem.projection.{part}")
    del state["ape.table"]
    return state | {"pos_embed": torch.randn(1, 1 + patches, 32, generator=torch.Generator().manual_seed(patches))}


def test_positions_are_placed_by_their_grid_although_the_number_of_rows_agrees(tmp_path: Path) -> None:
    model = small((224, 56))  # 28 x 7 patches, as many as the 14 x 14 of ImageNet
    state = timm_state(model, 196)
    path = fake.saved(state, tmp_path / "weights.pth")
    assert load_weights(model, path).positions == ((14, 14), (28, 7))
    expected = rows_on(state["pos_embed"][0], (14, 14), (28, 7))
    torch.testing.assert_close(present(model.backbone.ape).table.detach(), expected, rtol=0, atol=1e-6)
    assert load_weights(model, path, hw_ratio=4).resized == ()
    assert torch.equal(present(model.backbone.ape).table.detach(), state["pos_embed"][0])


def test_a_given_ratio_is_honoured_although_the_number_of_rows_agrees(tmp_path: Path) -> None:
    model = small((96, 96))  # 12 x 12
    state = timm_state(model, 144)
    path = fake.saved(state, tmp_path / "weights.pth")
    assert load_weights(model, path).resized == ()
    assert load_weights(model, path, hw_ratio=4).positions == ((24, 6), (12, 12))
    expected = rows_on(state["pos_embed"][0], (24, 6), (12, 12))
    torch.testing.assert_close(present(model.backbone.ape).table.detach(), expected, rtol=0, atol=1e-6)


def test_rows_of_two_likely_grids_are_asked_about_and_the_answer_is_taken(tmp_path: Path) -> None:
    model = small((128, 96))  # 16 x 12, as many as the 24 x 8 of 384 x 128
    path = fake.saved(timm_state(model, 192), tmp_path / "weights.pth")
    with pytest.raises(UserError, match=r"24 x 8 or the model's 16 x 12; .* --hw-ratio 3` or 1.333") as caught:
        load_weights(model, path)
    assert "\n" not in str(caught.value)
    for ratio, grid in ((3, (24, 8)), (1.333, (16, 12))):
        convert(path, tmp_path / "own.safetensors", hw_ratio=ratio)
        assert load_weights(model, tmp_path / "own.safetensors").positions == (grid, (16, 12))


@pytest.mark.parametrize("ratio", [None, 2])
def test_overlapping_patches_are_told_what_they_are_and_what_can_help(ratio: int | None, tmp_path: Path) -> None:
    path = fake.saved(fake.transreid(210), tmp_path / "weights.pth")
    words = r"210 position rows are those of 21 x 10 overlapping patches \(256 x 128 pixels in steps of 12\)"
    with pytest.raises(UserError, match=words) as caught:
        load_weights(model_for(256, "conv"), path, hw_ratio=ratio)
    assert "steps of 16 pixels" in str(caught.value)


class _Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch ran",)


def _broken(kind: str, folder: Path) -> tuple[Path, str]:
    path = folder / "weights.pth"
    content: Any = fake.transreid(128, stem="ics")
    words = ""
    match kind:
        case "nan":
            content["base.norm.weight"] = torch.full((fake.WIDTH,), float("nan"))
            words = r"NaN, infinity or numbers beyond 32 bits in 1 of \d+ tensors \(base.norm.weight\)"
        case "infinity in a part that is not used":
            content["base.fc.bias"] = torch.full((1000,), float("inf"))
            words = "NaN, infinity"
        case "double beyond single":
            content["base.norm.bias"] = torch.full((fake.WIDTH,), 1e300, dtype=torch.float64)
            words = "NaN, infinity"
        case "whole numbers":
            content["base.norm.bias"] = torch.ones(fake.WIDTH, dtype=torch.int8)
            words = r"1 of another shape: norm.bias \(384,\) of whole numbers"
        case "complex":
            content["base.norm.bias"] = torch.ones(fake.WIDTH, dtype=torch.complex64)
            words = "'base.norm.bias' is stored as complex64"
        case "sparse":
            content["base.norm.bias"] = torch.ones(fake.WIDTH).to_sparse()
            words = "'base.norm.bias' is sparse"
        case "two transformers":
            content = fake.prefixed(content, "a.") | fake.prefixed(content, "b.")
            words = r"holds 2 transformers \(behind 'a.base.', 'b.base.'\)"
        case "another stem":
            content = fake.transreid(128)
            words = r"(19|2\d) missing: .*the file has 12 blocks of width 384, stem conv, 128 position rows"
        case "a block is missing":
            content = {name: value for name, value in content.items() if ".blocks.7." not in name}
            words = r"\(12 missing: blocks.7.norm1.weight, (blocks.7[^,]*, ){4}\.\.\.\)"
        case "an unknown part":
            content["fcneck.weight"] = torch.zeros(512, fake.WIDTH)
            words = "1 unexpected: fcneck.weight"
        case "code":
            content = {"model": content, "best": _Code()}
            words = "holds an object '(posix|nt).system', which may run code"
        case "a class":
            content = {"model": content, "args": Path("a")}
            words = r"holds an object 'pathlib.*Path', which may run code when it is read; save the weights alone"
        case "no positions":
            content["base.pos_embed"] = torch.zeros(1, 0, fake.WIDTH)
            words = "position rows"
        case "another network":
            content = {"module.encoder_q.conv1.weight": torch.zeros(64, 3, 7, 7)}  # a ResNet of LUPerson
            words = r"holds no vision transformer \(its first names are encoder_q.conv1.weight\), but vit_small is one"
        case "zip":
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("vit_small.pth", "weights")
            return path, "is a zip archive in place of a weight file; unpack it"
        case "tar":
            (folder / "vit_small.pth").write_text("weights")
            with tarfile.open(path, "w") as archive:
                archive.add(folder / "vit_small.pth", "vit_small.pth")
            return path, "is a tar archive in place of a weight file; unpack it"
        case "gzip":
            path.write_bytes(gzip.compress(b"weights"))
            return path, "is a gzip archive in place of a weight file; unpack it"
        case "numpy":
            with path.open("wb") as stream:
                np.savez(stream, cls=np.zeros((1, 1, 768), np.float32))  # the ViTs of Google Research
            return path, "is a NumPy file in place of a weight file; give one that PyTorch wrote"
        case "web page":
            path.write_text("<!DOCTYPE html><html>Quota exceeded</html>")
            return path, "is a web page in place of weights"
        case "pointer":
            path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n")
            return path, "is a Git LFS pointer"
    return fake.saved(content, path), words


BROKEN = [
    *("nan", "infinity in a part that is not used", "double beyond single", "whole numbers", "complex", "sparse"),
    *("two transformers", "another stem", "a block is missing", "an unknown part", "code", "a class", "no positions"),
    *("web page", "pointer", "another network", "zip", "tar", "gzip", "numpy"),
]


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_files_are_refused_in_one_sentence_and_leave_the_model_alone(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path, words = _broken(kind, tmp_path)
    model = model_for(256, "ics")
    with pytest.raises(UserError, match=words) as caught:
        load_weights(model, path)
    assert str(caught.value).startswith(f"{path}")
    assert str(caught.value).isprintable()
    assert all((value == -1).all() for value in model.state_dict().values())
    assert not (tmp_path / "ran").exists()


def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Runs the program as the shell does; it must refuse in one sentence with status 2."""
    monkeypatch.setattr(sys, "argv", ["reidablate", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        main()
    said = capsys.readouterr().err
    assert caught.value.code == 2, said
    assert said.startswith("reidablate: ")
    assert said.count("\n") == 1
    assert said[:-1].isprintable()
    return said


def test_control_codes_of_a_file_never_reach_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = fake.saved({"\x1b[31mpos\x07\u202ename": torch.zeros(2)}, tmp_path / "a.pth")
    said = refused(monkeypatch, capsys, "weights", "convert", path, tmp_path / "b.safetensors")
    assert "posname" in said
    assert said.rstrip("\n").isprintable()


def mutated(data: bytes, rng: random.Random) -> bytes:
    """The bytes of a file with a few of them changed, cut out or written twice."""
    for _ in range(rng.randint(1, 4)):
        place, length = rng.randrange(len(data)), rng.randint(1, 40)
        match rng.randrange(4):
            case 0:
                data = data[:place] + bytes([rng.randrange(256)]) + data[place + 1 :]
            case 1:
                data = data[:place] + data[place + length :]
            case 2:
                data = data[:place] + data[place : place + length] + data[place:]
            case 3:
                data = data[:place] + rng.randbytes(length) + data[place + length :]
        data = data or b"x"
    return data


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors", "header"])
def test_no_damage_to_a_file_ends_in_anything_but_a_sentence(form: str, tmp_path: Path) -> None:
    model, path = small(), tmp_path / ("a.safetensors" if form in {"safetensors", "header"} else "a.pth")
    if path.suffix == ".pth":
        content = {"model": timm_state(model, 24), "best": np.float64(0.5)}
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    else:
        save_weights(model, path)
    whole, rng, read = path.read_bytes(), random.Random(0), 0
    said: list[str] = []
    for _ in range(100):
        data = mutated(whole[:5000] if form == "header" else whole, rng)
        path.write_bytes(data + whole[5000:] if form == "header" else data)
        for action in (lambda: convert(path, tmp_path / "out.safetensors"), lambda: load_weights(small(), path)):
            try:
                action()
                read += 1
            except UserError as error:
                said.append(str(error))
    assert len(said) + read == 200
    assert said
    assert all(sentence.isprintable() for sentence in said)


@pytest.mark.parametrize(
    "grid", ["{x:1}", '{"gird":[6,4]}', '{"grid":[0,0]}', '{"grid":[4,6,1]}', '{"grid":["6",4]}', "[]"]
)
def test_a_header_that_is_not_ours_is_refused(grid: str, tmp_path: Path) -> None:
    state = {name: value.contiguous() for name, value in small().state_dict().items()}
    save_file(state, tmp_path / "a.safetensors", metadata={"reidablate": grid})
    with pytest.raises(UserError, match=r"is damaged|is not a complete weight file"):
        load_weights(small(), tmp_path / "a.safetensors")
    turned = json.dumps({"grid": [4, 6]})
    save_file(state, tmp_path / "a.safetensors", metadata={"reidablate": turned})
    assert load_weights(small(), tmp_path / "a.safetensors").resized == ("backbone.ape.table",)


def test_numbers_of_every_numpy_kind_are_read(tmp_path: Path) -> None:
    kinds = [np.dtype(code).type for code in "?bhilqBHILQefdgFD"]
    content = {"model": timm_state(small(), 24), "scores": [kind(1) for kind in kinds], "name": np.str_("market")}
    path = tmp_path / "a.pth"
    torch.save(content, path, _use_new_zipfile_serialization=False)
    written = path.read_bytes()
    for place in (b"numpy._core.multiarray\n", b"numpy.core.multiarray\n"):  # of NumPy 2 and 1
        path.write_bytes(re.sub(rb"numpy\._?core\.multiarray\n", place, written))
        assert place in path.read_bytes()
        assert load_weights(small(), path).wrappers == ("model",)


def test_every_combination_of_wrapper_and_prefix_is_the_same_network(tmp_path: Path) -> None:
    state = timm_state(small(seed=1), 24)
    wrappers: list[Callable[[Any], Any]] = [
        lambda tensors: tensors,
        lambda tensors: {"state_dict": tensors, "epoch": 3},
        lambda tensors: {"model_state_dict": tensors, "optimizer_state_dict": {"state": {}}},
        lambda tensors: {"model": {"state_dict": tensors}},
        lambda tensors: {"net": tensors, "acc": 0.5},
    ]
    for wrap, prefix in itertools.product(
        wrappers, ["", "module.", "backbone.", "base.", "module.model.backbone.", "x."]
    ):
        model = small()
        load_weights(model, fake.saved(wrap(fake.prefixed(state, prefix)), tmp_path / "a.pth"))
        assert torch.equal(model.state_dict()["backbone.blocks.1.mlp.fc2.weight"], state["blocks.1.mlp.fc2.weight"])
        assert torch.equal(present(model.backbone.ape).table.detach(), state["pos_embed"][0])


def test_check_takes_a_file_for_a_network_of_timm_as_a_training_does(tmp_path: Path) -> None:
    config = ModelConfig.model_validate({"backbone": "timm/resnet18", "image_size": [64, 32]})
    model = ReidModel(config, num_classes=3)
    net = model.backbone.state_dict()
    state = {name.removeprefix("net."): value for name, value in net.items()} | {"fc.bias": torch.zeros(1000)}
    path = fake.saved({"state_dict": fake.prefixed(state, "module.")}, tmp_path / "resnet18.pth")
    preset = tmp_path / "cnn.yaml"
    shipped = yaml.safe_load(packaged("workflow/config/presets/paper_vitb_imagenet.yaml").read_text())
    network = {"backbone": "timm/resnet18", "image_size": [64, 32]}
    preset.write_text(yaml.safe_dump(shipped | {"name": "cnn", "model": network}))
    said = run_cli("weights", "check", str(path), "--preset", str(preset))
    assert f"loaded: {len(net)} (backbone.net.conv1.weight, " in said
    assert "ignored: 1 (module.fc.bias)" in said
    assert len(load_weights(model, path, head=False).loaded) == len(net)


def test_check_says_what_a_training_would_take(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = fake.saved(fake.lightning(fake.transreid(192, stem="ics", cameras=6)), project / "a.pth")
    said = run_cli("weights", "check", str(path), "--preset", "paper_vits")
    assert f"{path}: 12 blocks of width 384, stem ics, 192 position rows" in said
    assert "found in: state_dict, 'model.base.'" in said
    assert "loaded: 178 (" in said
    assert "positions: 24 x 8 rows resized to 16 x 8" in said
    assert "ignored: 3 (sie_embed, fc.weight, fc.bias)" in said
    assert "missing, drawn anew: none" in said
    assert "note: trained with camera or view embeddings" in said
    every = run_cli("weights", "check", str(path))
    assert "preset paper_vits:\nloaded: 178" in every
    assert "preset paper: refused, its network is vit_base with stem ics" in every
    sentence = refused(monkeypatch, capsys, "weights", "check", path, "--preset", "paper")
    assert "of another shape: " in sentence
    overlapping = fake.saved(fake.transreid(210), project / "b.pth")
    assert "overlapping patches" in refused(monkeypatch, capsys, "weights", "check", overlapping)
    plain = fake.saved(fake.transreid(), project / "c.pth")  # no preset has ViT-S with the plain stem
    sentence = refused(monkeypatch, capsys, "weights", "check", plain)
    assert "fits no preset; write one of your own with `model: {backbone: vit_small, stem: conv}`, or see" in sentence
    assert "there is no preset 'papers'" in refused(monkeypatch, capsys, "weights", "check", path, "--preset", "papers")
