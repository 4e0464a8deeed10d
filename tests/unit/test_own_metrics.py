"""A metric of a study's own: from a function of ranks to the tables, contrasts and verdicts."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from reidablate.artifacts import read_json, read_table, write_npz, write_record
from reidablate.errors import UserError
from reidablate.metrics import score
from reidablate.metrics.evaluate import evaluate_run
from reidablate.metrics.own import OwnMetrics
from reidablate.metrics.registry import Metric, own_metric, own_metrics
from reidablate.runs import SIDES, Provenance
from reidablate.standing import unscored
from reidablate.stats.contrasts import contrast_table

OWN = """
from reidablate.metrics import metric


@metric(title="First hit", better="lower", delta=5)
def first_hit(ranks):
    return ranks[0]


@metric(title="Precision at 2")
def precision_at_2(ranks):
    return (ranks <= 2).sum() / 2


@metric(title="Nothing")
def nothing(ranks):
    return float("nan") if ranks[0] > 1 else 1


def plain(ranks):
    return 0


@metric(title="Taken")
def mAP(ranks):
    return 0
"""


@pytest.fixture(autouse=True)
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study with metrics of its own as the working directory."""
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "mine.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_is_given_the_ranks_of_each_query_in_the_order_of_the_table() -> None:
    generator = np.random.default_rng(0)
    features, gallery = generator.normal(size=(6, 4)), generator.normal(size=(20, 4))
    pids, gallery_pids = np.array([2, 0, 1, 0, 2, 1]), generator.integers(0, 3, 20)
    metrics = [own_metric("mine:first_hit"), own_metric("mine:precision_at_2")]
    own = OwnMetrics(metrics)
    values = score(
        features,
        gallery,
        query_pids=pids,
        gallery_pids=gallery_pids,
        query_camids=np.zeros(6, int),
        gallery_camids=np.ones(20, int),
        block_size=2,
        own=own,
    ).columns
    assert own.failures == {}
    assert values["first_hit"].tolist() == values["first_hit_rank"].tolist()
    normal = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (features, gallery)]
    for query, value in enumerate(values["precision_at_2"]):
        order = np.argsort(np.linalg.norm(normal[0][query] - normal[1], axis=1))
        assert value == (gallery_pids[order][:2] == pids[query]).mean()


def test_name_title_direction_and_delta_are_said_once() -> None:
    found = own_metric("mine:first_hit")
    assert (found.name, found.title, found.higher_is_better, found.delta_points) == ("first_hit", "First hit", False, 5)


def test_what_is_no_metric_is_left_out_with_a_reason() -> None:
    found, lines = own_metrics(["mine:precision_at_2", "mine:plain", "mine:mAP", "mine:gone", "mine:precision_at_2"])
    assert [metric.name for metric in found] == ["precision_at_2"]
    reasons = ("write @metric(title=...) above it", "'mAP' is taken", "holds no 'gone'", "has its name")
    assert all(reason in line for reason, line in zip(reasons, lines, strict=True))


def test_a_metric_that_fails_or_is_no_number_leaves_the_others_alone() -> None:
    Path("methods/mine.py").write_text(OWN.replace("(ranks <= 2)", "(ranks <= two)"))
    metrics, _ = own_metrics(["mine:first_hit", "mine:precision_at_2", "mine:nothing"])
    own = OwnMetrics(metrics)
    values = own.columns(np.array([1, 3, 2]), np.array([0, 2]))
    assert values["first_hit"].tolist() == [1, 2]
    assert "methods/mine.py, line 12: metric precision_at_2 failed: NameError" in own.failures["precision_at_2"]
    assert "'mine:nothing' is nan for ranks [2]; return a number" in own.failures["nothing"]
    assert own.names == ["first_hit"]


@pytest.mark.parametrize(
    ("body", "value"),
    [
        ("return torch.tensor(0.5)", 0.5),
        ("return '0.5'", "'0.5'"),
        ("return [1, 2]", "[1, 2]"),
        ("return None", "None"),
        ("return torch.ones(2)", "tensor([1., 1.])"),
    ],
)
def test_a_metric_returns_a_number(body: str, value: float | str) -> None:
    text = f"import torch\nfrom reidablate.metrics import metric\n@metric(title='M')\ndef odd(ranks):\n    {body}\n"
    Path("methods/odd.py").write_text(text)
    own = OwnMetrics([own_metric("odd:odd")])
    found = own.columns(np.array([2]), np.array([0]))["odd"]
    if isinstance(value, float):
        assert found.tolist() == [value]
    else:
        assert f"methods/odd.py, line 3: 'odd:odd' is {value} for ranks [2]; return a number." in own.failures["odd"]


SLOW = """
from reidablate.metrics import metric


@metric(title="Slow", time_limit_s=0.1)
def slow(ranks):
    while True:
        pass
"""


def test_a_metric_that_never_ends_is_left_out_and_the_others_stand(scored_run: Path) -> None:
    Path("methods/slow.py").write_text(SLOW)
    metrics, _ = own_metrics(["slow:slow", "mine:first_hit"])
    evaluate_run(scored_run, metrics)
    found = read_json(scored_run / "metrics.json")
    assert "first_hit" in found["before_neck"]
    (line,) = found["failures"]
    assert line.startswith("metric 'slow:slow' is left out: methods/slow.py, line ")
    assert "metric slow failed: TimeoutError: it took longer than 0.1 s; make it faster" in line


def queries(cell: str, hit: int) -> pd.DataFrame:
    rows = [
        {"cell": cell, "seed": seed, "query": f"q{q}", "pid": q // 2, "camid": q % 3, "first_hit": hit + (q + seed) % 2}
        for seed in range(4)
        for q in range(24)
    ]
    return pd.DataFrame(rows).assign(dataset="market1501", side="before_neck")


def test_lower_is_better_where_the_metric_says_so() -> None:
    cells = [
        {"name": "base", "group": "main", "references": []},
        {"name": "new", "group": "main", "references": ["base"]},
    ]
    runs = pd.DataFrame(
        [{"dataset": "market1501", "cell": c["name"], "seed": s, "status": "finished"} for c in cells for s in range(4)]
    )
    noise = np.random.default_rng(0).normal(0, 0.01, 192)
    table = pd.concat([queries("base", 4), queries("new", 2)], ignore_index=True)
    table["first_hit"] = (table["first_hit"] + noise) / 100

    def verdict(higher_is_better: bool) -> str:
        own = Metric(name="first_hit", title="First hit", column="first_hit", higher_is_better=higher_is_better)
        found = contrast_table(table, runs, cells, deltas={}, headline_side="before_neck", metrics=[own])
        row = found[found["side"] == "before_neck"].iloc[0]
        assert row["estimate"] < 0
        return str(row["verdict"])

    assert (verdict(True), verdict(False)) == ("worsens", "improves")


@pytest.fixture
def scored_run(study: Path) -> Path:
    """A run whose features are there and were scored without metrics of the study's own."""
    generator = np.random.default_rng(0)
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for split, number in (("query", 6), ("gallery", 20)):
        arrays |= {f"{split}_{side}": generator.normal(size=(number, 4)).astype(np.float32) for side in SIDES}
        arrays |= {f"{split}_pids": np.arange(number) % 3, f"{split}_camids": np.full(number, len(split))}
        arrays[f"{split}_names"] = np.array([f"{split}{i}.jpg" for i in range(number)])
    run = study / "run"
    write_npz(run / "features.npz", arrays)
    facts = dict.fromkeys(name for name in Provenance.model_fields if name != "sha256")
    facts |= {"dataset": "market1501", "cell": "p1", "seed": 0, "status": "finished", "config_hash": "a"}
    facts |= {"data_fingerprint": "b", "versions": {}, "config": {"model": {"test_feature": "before_neck"}}}
    write_record(run / "provenance.json", {**facts, "science_version": 1}, ["features.npz"])
    evaluate_run(run)
    return run


def test_an_edit_scores_again_and_what_fails_is_named(scored_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics, _ = own_metrics(["mine:precision_at_2", "mine:nothing"])
    codes = {metric.name: metric.code for metric in metrics}
    assert unscored(scored_run, codes) == "scored by other metrics of the study's own"
    evaluate_run(scored_run, metrics)
    assert "metric 'mine:nothing' is left out" in capsys.readouterr().err
    assert unscored(scored_run, codes) == ""
    summary = read_json(scored_run / "metrics.json")["before_neck"]
    table = read_table(scored_run / "queries.parquet")
    own = table[table["side"] == "before_neck"]["precision_at_2"]
    assert summary["precision_at_2"] == pytest.approx(own.mean())
    assert "nothing" not in summary
    Path("methods/mine.py").write_text(OWN.replace("/ 2", "/ 2.0 + 1"))
    changed, _ = own_metrics(["mine:precision_at_2", "mine:nothing"])
    assert unscored(scored_run, {metric.name: metric.code for metric in changed}) != ""


@pytest.mark.parametrize("name", ["mine:gone"])
def test_a_metric_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="holds no 'gone'"):
        own_metric(name)
