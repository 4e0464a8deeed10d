"""What `reidablate methods new` writes: a small working example of each kind of plug-in, and its test."""

from pathlib import Path

from reidablate.artifacts import write_text
from reidablate.config import nearest
from reidablate.errors import UserError
from reidablate.plugin_code import FOLDER

_LOSS = '''"""The loss NAME. A cell uses it as `losses: {NAME: {use: "NAME:NAME", margin: 0.3}}`."""

import torch
from torch import Tensor

from reidablate.losses import Batch, LossOptions


class Options(LossOptions):
    """What a cell can set, beside `weight`. A loss that needs patches says so in a property `needs`.

    Attributes:
        margin: How much farther than the hardest positive the hardest negative should be.
    """

    margin: float = 0.3


def NAME(batch: Batch, options: Options) -> Tensor:
    """Returns a scalar: here, how much farther the hardest positive is than the hardest negative, plus a margin."""
    triplets = batch.triplets
    to_positive = (batch.feature - batch.feature[triplets.positive]).norm(dim=1)
    to_negative = (batch.feature - batch.feature[triplets.negative]).norm(dim=1)
    return torch.relu(to_positive - to_negative + options.margin).mean()
'''
_LOSS_TEST = '''"""Run in the study folder: pytest methods"""

import torch

from reidablate.losses import Batch, LossesConfig, Shape, StudyLoss


def test_it_is_a_finite_term_with_a_gradient() -> None:
    feature = torch.randn(8, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
    labels = torch.arange(8) // 2
    batch = Batch(feature, feature, feature[:, :4], torch.randn(4, 16), labels, labels)
    config = LossesConfig.model_validate({"identity": "none", "triplet": "none", "NAME": {"use": "NAME:NAME"}})
    total = StudyLoss(config, Shape(num_classes=4, width=16))(batch)["total"]
    total.backward()
    assert total.isfinite()
    assert feature.grad is not None
    assert feature.grad.isfinite().all()
'''
_METRIC = '''"""The metric NAME. A study uses it with `metrics: ["NAME:NAME"]` in workflow/config/default.yaml."""

from reidablate.metrics import metric


@metric(title="Precision at 5", better="higher", delta=0.5)  # delta: points that do not matter
def NAME(ranks) -> float:
    """Returns a number for a query; `ranks` are those of its positives in the gallery, from 1 and rising."""
    return float((ranks <= 5).sum()) / 5
'''
_METRIC_TEST = '''"""Run in the study folder: pytest methods"""

import numpy as np

from reidablate.metrics.own import OwnMetrics
from reidablate.metrics.registry import own_metric


def test_two_queries() -> None:
    own = OwnMetrics([own_metric("NAME:NAME")])
    ranks, starts = np.array([1, 4, 9, 6]), np.array([0, 3])  # one query with three positives, one with one
    assert own.columns(ranks, starts)["NAME"].tolist() == [0.4, 0.0]
    assert own.failures == {}
'''
_FORMAT = '''"""The folder layout NAME: images such as gallery/0007/cam2_000451.jpg.

A study uses it with, in workflow/config/default.yaml,

    dataset_table:
      mine: {title: Mine, format: "NAME:NAME", folders: [mine]}
"""

from collections.abc import Iterator
from pathlib import Path


def NAME(root: Path) -> Iterator[tuple[str, int, int, str]]:
    """Yields, for each image, its path below the folder, person (-1 is junk), camera, and train, query or gallery."""
    for path in sorted(root.glob("*/*/cam*.jpg")):
        split, person, name = path.relative_to(root).parts
        camera = name.removeprefix("cam").partition("_")[0]
        yield f"{split}/{person}/{name}", int(person), int(camera), split
'''
_FORMAT_TEST = '''"""Run in the study folder: pytest methods"""

from pathlib import Path

from reidablate.data.folder import read_folder
from reidablate.data.formats import Layout


def test_an_image_of_each_split(tmp_path: Path) -> None:
    for name in ("train/0001/cam1_1.jpg", "query/0002/cam1_1.jpg", "gallery/0002/cam3_1.jpg"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    records = read_folder(tmp_path, Layout(title="Mine", format="NAME:NAME")).records
    assert [(record.split, record.pid, record.camid) for record in records] == [
        ("train", 1, 1),
        ("query", 2, 1),
        ("gallery", 2, 3),
    ]
'''
STARTERS = {"loss": (_LOSS, _LOSS_TEST), "metric": (_METRIC, _METRIC_TEST), "format": (_FORMAT, _FORMAT_TEST)}


def write_starter(study: Path, kind: str, name: str) -> list[Path]:
    """Writes `methods/NAME.py` and `methods/test_NAME.py` into a study and returns their paths.

    Raises:
        UserError: There is no such kind, the name is no name in Python, or a file is there already.
    """
    if kind not in STARTERS:
        raise UserError(f"there is nothing to start a '{kind}' with; {nearest(kind, list(STARTERS))}")
    if not name.isidentifier() or name != name.lower() or name.startswith(("_", "test_")):
        raise UserError(f"'{name}' is no name of a file and a function; use small letters, digits and '_'.")
    files = [study / FOLDER / f"{name}.py", study / FOLDER / f"test_{name}.py"]
    if taken := next((file for file in files if file.exists()), None):
        raise UserError(f"{taken} exists already; choose another name or edit it.")
    for file, text in zip(files, STARTERS[kind], strict=True):
        write_text(file, text.replace("NAME", name))
    return files
