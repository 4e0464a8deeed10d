"""A smoke test of the user's own data: what it plans and which images it reads."""

from pathlib import Path

import pytest

from reidablate.config import Sample
from reidablate.data.formats import Record
from reidablate.errors import UserError
from reidablate.planning import plan
from reidablate.smoke import sample_records

Settings = dict[str, object]
MARKET = {
    "bounding_box_train": ["0002_c1s1_000451_03.jpg", "0005_c1s1_000451_03.jpg"],
    "query": ["0001_c1s1_001051_00.jpg"],
    "bounding_box_test": ["0001_c2s1_001076_01.jpg"],
}


def real_looking(root: Path) -> None:
    for folder, names in MARKET.items():
        (root / folder).mkdir(parents=True)
        for name in names:
            (root / folder / name).touch()


def test_real_data_is_tried_with_the_paper_backbone_without_gpu_and_weights(settings: Settings, project: Path) -> None:
    real_looking(project / "data" / "market1501")
    study = plan({**settings, "preset": "smoke"})
    full = plan({**settings, "preset": "paper"})
    assert study.root == Path("results/smoke")
    assert study.preset.model == full.preset.model
    assert len(study.asked_runs) == 10
    assert {run.seed for run in study.asked_runs} == {0}
    assert study.gpus_per_run == 0
    assert study.weights is None
    assert study.refusals(gpu_limit=0, num_gpus=0) == []
    train = study.cell("p1_rpe_jsd").config.train
    assert (train.num_ids, train.num_instances, train.num_epochs, train.precision) == (2, 2, 1, "fp32")
    assert "numbers mean nothing" in study.notices[0]
    assert any("preset=smoke" in line for line in full.refusals(gpu_limit=None, num_gpus=0))
    assert len(full.refusals(gpu_limit=None, num_gpus=0)) == 3  # no GPU, no weights, and what can be tried


def test_without_data_the_synthetic_sets_are_tried_and_the_second_by_two_cells(settings: Settings) -> None:
    study = plan({**settings, "preset": "smoke"})
    assert [dataset.generated for dataset in study.datasets] == [True, True]
    assert not study.pretrains
    second = [run.cell for run in study.asked_runs if run.dataset == "occluded_duke"]
    assert second == ["naive_triplet", "p1_rpe_jsd"]
    with pytest.raises(UserError, match="although data_root=nowhere"):
        plan({**settings, "preset": "smoke", "data_root": "nowhere"})


def records(split: str, rows: list[tuple[int, int]]) -> list[Record]:
    return [Record(split, f"{split}/{k}.jpg", f"{k}.jpg", pid, camid) for k, (pid, camid) in enumerate(rows)]


def test_the_sample_can_be_scored_and_makes_one_batch() -> None:
    train = records("train", [(1, 1), (2, 1), (2, 2), (2, 3), (3, 1), (3, 1)])
    query = records("query", [(7, 1), (8, 1), (8, 2), (9, 1)])
    gallery = records("gallery", [(-1, 1), (0, 2), (7, 1), (8, 2), (8, 1), (9, 2)])
    everything = [*train, *query, *gallery]
    chosen = sample_records(everything, Sample(test_images=4))
    assert list(chosen) == [*train[1:3], *train[4:], query[1], query[3], gallery[3], gallery[5]]  # 7: one camera alone
    assert len(sample_records(everything, Sample(test_images=6))) == 4 + 6
    with pytest.raises(UserError, match="by another camera"):
        sample_records([*train, query[0], gallery[2]], Sample())
