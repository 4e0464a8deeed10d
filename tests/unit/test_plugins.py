"""Losses of a study's own: found, checked, hashed, and refused in a sentence that names file and line."""

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch

from reidablate import plugin_code, plugins
from reidablate.cell_schema import cell_schema
from reidablate.cells import load_cells
from reidablate.config import LossesConfig, RunConfig, validate
from reidablate.data.own_format import own_rows
from reidablate.data.table import DatasetEntry, layout_of
from reidablate.errors import UserError
from reidablate.losses import Batch, Shape, StudyLoss
from reidablate.models.backbones import build_backbone
from reidablate.planning import load_presets
from reidablate.rng import seed_globals
from reidablate.trees import merge
from support import copy_project

BASE = {"model": {"backbone": "vit_quickstart", "image_size": [64, 32]}, "train": {"lr": 0.1, "epochs": 30}}
CIRCLE = """
from torch import Tensor

from reidablate.losses import Batch, LossOptions


class CircleOptions(LossOptions):
    margin: float = 0.25


def circle(batch: Batch, options: CircleOptions) -> Tensor:
    return options.margin * batch.feature.square().mean()
"""
CENTRES = """
import torch
from torch import nn

from reidablate.losses import Batch, LossOptions, Shape


class Centres(nn.Module):
    def __init__(self, options: LossOptions, shape: Shape) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.randn(shape.num_classes, shape.width))

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        away = (batch.feature - self.centres[batch.labels]).square().mean()
        return {"": away, "size": self.centres.square().mean()}
"""


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty study as the working directory."""
    (tmp_path / "ablations").mkdir()
    (tmp_path / "Snakefile").touch()
    (tmp_path / "methods").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name: str, text: str) -> None:
    Path("methods", f"{name}.py").write_text(text)


def config(**sections: Any) -> RunConfig:
    return validate(RunConfig, merge(BASE, {"losses": sections}), where="ablations/x.yaml")


def batch() -> Batch:
    feature = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    labels = torch.tensor([0, 0, 1, 1])
    return Batch(feature, feature, feature[:, :2], torch.eye(2, 6), labels, labels)


def terms(**sections: Any) -> dict[str, torch.Tensor]:
    losses = config(**{"identity": "none", "triplet": "none", **sections}).losses
    found: dict[str, torch.Tensor] = StudyLoss(losses, Shape(num_classes=2, width=6))(batch())
    return found


def test_a_function_of_the_study_is_a_term_with_its_weight(study: Path) -> None:
    write("circle", CIRCLE)
    found = terms(circle={"use": "circle:circle", "weight": 2, "margin": 0.5})
    expected = 0.5 * batch().feature.square().mean()
    assert found["circle"].item() == pytest.approx(expected.item())
    assert found["total"].item() == pytest.approx(2 * expected.item())


def test_a_module_has_parameters_drawn_from_the_seed_and_names_of_its_terms(study: Path) -> None:
    write("centres", CENTRES)
    losses = config(centres={"use": "centres:Centres", "lr_factor": 5}).losses
    one, again, other = (StudyLoss(losses, Shape(num_classes=2, width=6), seed=seed) for seed in (0, 0, 1))
    assert {"centres", "centres_size"} <= one(batch()).keys()
    ((name, factor, parameters),) = one.parameter_groups()
    assert (name, factor, [p.shape for p in parameters]) == ("centres", 5, [(2, 6)])
    assert torch.equal(parameters[0], next(again.parameters()))
    assert not torch.equal(parameters[0], next(other.parameters()))
    again.load_state_dict(other.state_dict())
    assert torch.equal(next(again.parameters()), next(other.parameters()))


def test_a_loss_that_ships_can_stand_under_a_second_name(study: Path) -> None:
    found = terms(triplet={"margin": 0.3}, wide={"use": "triplet", "margin": 3.0})
    assert found["wide"] > found["triplet"]
    assert config(wide={"use": "triplet"}).plugins == []


def test_the_hash_changes_with_the_code_and_not_with_comments_or_other_files(study: Path) -> None:
    def hash_now() -> str:
        return config(circle={"use": "circle:circle"}).hash

    write("circle", CIRCLE.replace("options.margin *", "scale(options.margin) *") + "\nfrom .shared import scale\n")
    write("shared", "def scale(x):\n    return x\n")
    write("other", "y = 1\n")
    first = hash_now()
    write("other", "y = 2\n")
    write("shared", "# a comment\ndef scale(x):\n    return x\n")
    assert hash_now() == first
    write("shared", "def scale(x):\n    return 2 * x\n")
    assert hash_now() != first
    assert config().hash == validate(RunConfig, BASE, where="x").hash


def test_an_edited_file_is_imported_anew(study: Path) -> None:
    write("circle", CIRCLE)
    first = terms(circle={"use": "circle:circle"})["circle"].item()
    write("circle", CIRCLE.replace("square()", "abs()   "))
    assert terms(circle={"use": "circle:circle"})["circle"].item() != first


def test_a_record_is_read_without_its_file_and_trained_only_with_the_same(study: Path) -> None:
    write("circle", CIRCLE)
    planned = config(circle={"use": "circle:circle"})
    write("circle", CIRCLE.replace("0.25", "0.75"))
    again = validate(RunConfig, planned.dump(), where="provenance.json")
    assert (again, again.hash) == (planned, planned.hash)
    with pytest.raises(
        UserError, match=r"methods/circle.py, line 11: 'circle:circle' was changed since this was planne"
    ):
        StudyLoss(again.losses, Shape(num_classes=2, width=6))
    Path("methods/circle.py").unlink()
    assert validate(RunConfig, planned.dump(), where="provenance.json").hash == planned.hash


BODY = CIRCLE.replace("return options.margin * batch.feature.square().mean()", "return {}")


@pytest.mark.parametrize(
    ("text", "use", "sentence"),
    [
        (CIRCLE, {"margn": 1}, "losses.circle: unknown key 'margn'; did you mean 'margin'?"),
        (CIRCLE, {"margin": "wide"}, "losses.circle: 'margin' is 'wide' but should be a valid number"),
        (CIRCLE, {"use": "circle:circel"}, "methods/circle.py holds no 'circel'; did you mean 'circle'?"),
        (CIRCLE, {"use": "cirle:circle"}, "there is no methods/cirle.py and no installed module 'cirle'"),
        (CIRCLE, {"use": "tripelt"}, "there is nothing named 'tripelt' in losses; did you mean 'triplet'?"),
        (CIRCLE, {"use": "../x:circle"}, "'../x:circle' is no name of a plug-in; write FILE:NAME"),
        ("x = 1\nclass\n", {}, "methods/circle.py, line 2: invalid syntax"),
        (
            "\nimport no_such_module\n",
            {},
            "methods/circle.py, line 2: the import failed: ModuleNotFoundError: No module",
        ),
        ("import sys\nsys.exit(3)\n", {}, "methods/circle.py, line 2: the import failed: SystemExit: 3."),
        ("import circle\n", {}, "a file of methods/ is imported as 'from methods.circle import ...'"),
        (
            "def circle(batch):\n    pass\n",
            {},
            "methods/circle.py, line 1: 'circle:circle' needs a parameter 'options'",
        ),
        ("circle = 3\n", {}, "methods/circle.py: 'circle' is of type int, not a function or class."),
        (None, {}, "there is no methods/circle.py and no installed module"),
        (CIRCLE, {"use": "builtins:len"}, "'builtins:len': the module builtins has no source file"),
        (CIRCLE.replace("margin:", "lr_factor:"), {}, "line 11: an option 'lr_factor' would be every loss's own"),
    ],
)
def test_a_loss_that_cannot_be_used_is_refused_in_one_sentence(
    study: Path, text: str | None, use: dict[str, Any], sentence: str
) -> None:
    if text is not None:
        write("circle", text)
    with pytest.raises(UserError) as caught:
        config(circle={"use": "circle:circle", **use})
    assert str(caught.value).startswith("ablations/x.yaml: ")
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("batch.feature", "line 11: losses.circle returned a tensor of shape (4, 6) as 'circle'; return a scalar"),
        ("0.5", "line 11: losses.circle returned float as 'circle'"),
        ("batch.feature.mean() / 0 * 0", "line 11: losses.circle returned NaN as 'circle' for the first batch"),
        ("{}", "line 11: losses.circle returned no term"),
        ("{'': batch.feature.mean(), 'other': batch.patches.mean()}", "line 12: losses.circle failed: AttributeError"),
        ("batch.feature.detach().mean()", "line 11: losses.circle returned no value with a gradient"),
        ("exit(0)", "methods/circle.py, line 12: losses.circle failed: SystemExit: 0."),
        ("batch.feature @ batch.feature", "methods/circle.py, line 12: losses.circle failed: RuntimeError"),
    ],
)
def test_a_loss_that_returns_no_term_is_refused_with_file_and_line(study: Path, value: str, sentence: str) -> None:
    write("circle", CIRCLE.replace("options.margin * batch.feature.square().mean()", value))
    with pytest.raises(UserError) as caught:
        terms(circle={"use": "circle:circle"})
    assert sentence in str(caught.value)
    assert str(caught.value).startswith("methods/circle.py, ")


def test_a_term_called_like_another_is_refused(study: Path) -> None:
    write("circle", CIRCLE.replace("return options", "return {'': batch.feature.mean(), 'aux': options") + "    }\n")
    with pytest.raises(UserError, match=r"losses.two returned a term 'two_aux', a name that is taken"):
        terms(two_aux={"use": "triplet"}, two={"use": "circle:circle"})
    with pytest.raises(UserError, match=r"'losses.lr' is no name for a loss"):
        config(lr={"use": "circle:circle"})


def test_what_has_no_gradient_alone_is_refused(study: Path) -> None:
    write("circle", CIRCLE.replace(".mean()", ".mean().detach() * 0"))
    with pytest.raises(UserError, match="no term depends on the network"):
        terms(circle={"use": "circle:circle"})


DRAWS = """
import random

import numpy as np
import torch

from reidablate.losses import Batch, LossOptions


def noisy(batch: Batch, options: LossOptions) -> torch.Tensor:
    return batch.feature.mean() + torch.rand(()) + np.random.rand() + random.random()


def careless(batch: Batch, options: LossOptions) -> torch.Tensor:
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    return noisy(batch, options)
"""


def test_what_a_loss_draws_follows_the_seed_of_the_step_and_no_other_loss(study: Path) -> None:
    write("draws", DRAWS)

    def drawn(step: int, **sections: str) -> float:
        seed_globals(step)
        return terms(**{name: {"use": use} for name, use in sections.items()})["noisy"].item()

    alone = drawn(3, noisy="draws:noisy")
    assert drawn(3, noisy="draws:noisy") == alone
    assert drawn(3, before="draws:careless", another="draws:noisy", noisy="draws:noisy") == alone
    assert drawn(4, noisy="draws:noisy") != alone


def test_an_error_that_no_line_of_a_plug_in_raises_names_all_that_take_part(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write("circle", CIRCLE)
    used = [plugins.find("losses", name) for name in ("circle:circle", "triplet")]
    with (
        pytest.raises(
            UserError, match=r"^methods/circle.py, line 11: a step of the training failed: RuntimeError: odd.$"
        ),
        plugins.running("a step of the training", *used),
    ):
        raise RuntimeError("odd.")
    assert "Traceback" in capsys.readouterr().err
    with pytest.raises(RuntimeError, match="odd"), plugins.running("a step", used[1]):
        raise RuntimeError("odd")


def test_a_package_of_the_folder_counts_with_all_that_it_imports(study: Path) -> None:
    inner = Path("methods/pack/inner")
    inner.mkdir(parents=True)
    (inner / "__init__.py").write_text("from ... import numbers\nfrom ...shared import SCALE\n")
    core = CIRCLE.replace("batch.feature", "SCALE * numbers.ONE * batch.feature")
    (inner.parent / "core.py").write_text(f"from .inner import SCALE, numbers\n{core}")
    (inner.parent / "__init__.py").write_text("from .core import circle\n")
    write("shared", "SCALE = 2.0\n")
    write("numbers", "ONE = 1.0\n")
    first = config(circle={"use": "pack:circle"})
    expected = 0.25 * 2.0 * batch().feature.square().mean().item()
    assert terms(circle={"use": "pack:circle"})["circle"].item() == pytest.approx(expected)
    write("numbers", "ONE = 2.0\n")
    assert config(circle={"use": "pack:circle"}).hash != first.hash
    write("pack", CIRCLE)
    with pytest.raises(UserError, match=r"methods/pack.py and methods/pack/__init__.py are modules of one name"):
        config(circle={"use": "pack:circle"})


BACKBONE = """
from torch import nn


class Net(nn.Module):
    width, grid = 4, (1, 1)

    def __init__(self, config):
        super().__init__()
"""
POINTS = """[reidablate.losses]
offered = offering.core:circle [extra]
whole = offering
twice = offering.core:circle
[reidablate.backbones]
offered = offering:Net
[reidablate.formats]
offered = offering:rows
"""


@pytest.fixture
def package(study: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package with plug-ins, as an installation leaves it on the path."""
    site = tmp_path_factory.mktemp("site")
    for name, text in {
        "offering/__init__.py": f"{BACKBONE}\n\ndef rows(root):\n    return []\n",
        "offering/core.py": CIRCLE,
        "offering-1.2.dist-info/METADATA": "Metadata-Version: 2.1\nName: offering\nVersion: 1.2\n",
        "offering-1.2.dist-info/top_level.txt": "offering\n",
        "offering-1.2.dist-info/entry_points.txt": POINTS,
        "another-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: another\nVersion: 1.0\n",
        "another-1.0.dist-info/entry_points.txt": "[reidablate.losses]\ntwice = another:circle\n",
    }.items():
        (site / name).parent.mkdir(exist_ok=True)
        (site / name).write_text(text)
    monkeypatch.syspath_prepend(site)
    plugin_code._distributions.cache_clear()
    yield site
    plugin_code._distributions.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == "offering"]:
        del sys.modules[name]


def test_what_a_package_offers_is_found_by_its_name_alone(package: Path) -> None:
    written = config(offered={"use": "offered", "margin": 0.5}).losses.model_dump()["offered"]
    assert (written["code"], written["margin"]) == ("offering 1.2", 0.5)
    own = validate(RunConfig, merge(BASE, {"model": {"backbone": "offered", "drop_path": 0.0}}), where="x")
    assert own.model.backbone_code == "offering 1.2"
    assert build_backbone(own.model).width == 4
    layout = layout_of("mine", {"mine": DatasetEntry(title="Mine", format="offered", folders=["mine"])})
    assert layout.is_own
    assert own_rows(Path(), layout) == []
    for name, sentence in {
        "whole": "'whole' stands for the module offering and nothing in it; write MODULE:NAME",
        "twice": r"'twice' is offered twice \(another:circle and offering.core:circle\); write MODULE:NAME of one",
    }.items():
        with pytest.raises(UserError, match=sentence):
            config(offered={"use": name})


def test_a_package_that_can_be_edited_in_place_counts_by_its_sources(package: Path) -> None:
    def code() -> str:
        return str(plugins.find("losses", "offering.core:circle").code)

    assert code() == "offering 1.2"
    origin = {"url": package.as_uri(), "dir_info": {"editable": True}}
    (package / "offering-1.2.dist-info" / "direct_url.json").write_text(json.dumps(origin))
    first = code()
    assert re.fullmatch(r"[0-9a-f]{16}", first)
    init = package / "offering" / "__init__.py"
    init.write_text(f"# a comment\n{init.read_text()}")
    assert code() == first
    init.write_text(f"x = 1\n{init.read_text()}")
    assert code() != first


def test_an_installed_module_is_named_by_package_and_version(study: Path) -> None:
    plugin = plugins.find("losses", "timm.layers:trunc_normal_")
    assert re.fullmatch(r"timm \d[\w.]+", str(plugin.code))
    with pytest.raises(UserError, match=r"'timm.layers:trunc_normal_' needs a parameter 'options'"):
        config(other={"use": "timm.layers:trunc_normal_"})


def test_code_beside_the_methods_folder_is_not_run(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (study / "stray_loss.py").write_text("raise RuntimeError('was run')\n")
    monkeypatch.syspath_prepend(study)
    with pytest.raises(UserError, match=r"stray_loss.py is not installed; move it to methods/ to use it"):
        config(other={"use": "stray_loss:loss"})


def test_a_broken_file_breaks_the_cells_that_use_it_alone(study: Path) -> None:
    copy_project(study / "p")
    os.chdir(study / "p")
    Path("methods").mkdir()
    write("circle", "x = (\n")
    for name, use in (("mine", "circle:circle"), ("theirs", "triplet")):
        Path("ablations", f"{name}.yaml").write_text(
            f"name: {name}\nextends: p1\nlosses:\n  circle: {{use: '{use}'}}\n"
        )
    Path("ablations/child.yaml").write_text("name: child\nextends: mine\n")
    cells = load_cells(Path("ablations"), load_presets().values())
    assert set(cells.broken) == {"mine", "child"}
    assert "methods/circle.py, line 1: '(' was never closed" in cells.broken["mine"].sentence
    assert {"theirs", "p1"} <= set(cells)


def test_the_code_of_a_record_may_not_be_written_by_hand(study: Path) -> None:
    Path("ablations/a.yaml").write_text("name: a\nlosses: {circle: {use: 'circle:circle', code: abc}}\n")
    cells = load_cells(Path("ablations"), [])
    assert "'losses.circle.code' is written by the program alone" in cells.broken["a"].sentence


def test_the_schema_knows_the_options_of_a_loss_of_the_study(study: Path) -> None:
    write("circle", CIRCLE)
    write("broken", "x = (\n")
    schema, refused = cell_schema()
    assert len(refused) == 1
    assert "methods/broken.py, line 1" in refused[0]
    schema = json.loads(json.dumps(schema))

    def check(section: Any) -> None:
        jsonschema.validate({"name": "a", "losses": {"circle": section}}, schema)

    check({"use": "circle:circle", "margin": 0.5, "weight": 2})
    check({"use": "elsewhere:loss", "anything": 1})
    check("none")
    for slip in ({"use": "circle:circle", "margn": 0.5}, {"use": "circle:circle", "margin": "wide"}, {"margin": 1}):
        with pytest.raises(jsonschema.ValidationError):
            check(slip)


def test_a_loss_of_the_package_takes_no_code(study: Path) -> None:
    with pytest.raises(UserError, match=r"unknown key 'losses.triplet.use'"):
        config(triplet={"use": "circle:circle"})
    assert next(iter(LossesConfig().sections()))[0] == "identity"


CORE_LOSSES = {"identity", "triplet", "weighted_triplet", "position_relation", "position_triplet", "pml"}
OPTIONAL = {
    name: target
    for kind in ("losses", "parts", "local_features")
    for name, target in plugins.SHIPPED[kind].items()
    if name not in CORE_LOSSES
}


@pytest.mark.parametrize("name", OPTIONAL)
def test_no_module_but_its_own_knows_an_optional_method(name: str) -> None:
    module = OPTIONAL[name].split(":")[0]
    package = Path(plugins.__file__).parent
    own = package.parent.joinpath(*module.split(".")).with_suffix(".py")
    for path in package.rglob("*.py"):
        if path not in (own, Path(plugins.__file__)):
            text = path.read_text(encoding="utf-8")
            assert f'"{name}"' not in text, path
            assert not re.search(rf"(from|import) {re.escape(module)}\b", text), path
