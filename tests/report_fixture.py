"""A plausible, seeded `results/<preset>` folder for the report's tests: every table, invented numbers.

Run `python tests/report_fixture.py FOLDER` to look at it. Shapes: N queries of a run, S seeds, K epochs.
The metrics are the means of the per-query values, the contrasts are judged from those values, so the tables agree.
"""

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from reidablate.rng import generator
from reidablate.stats.claims import COLUMNS as CLAIM_COLUMNS
from reidablate.stats.contrasts import contrast_table
from reidablate.stats.joint import joint_table
from reidablate.stats.slices import slice_table

SIDES = ("before_neck", "after_neck")
RELATION = {"divergence": "jsd", "grouping": "head", "pairs": "combinations", "patches": 5, "weight": 1.0}
JSD = {f"losses.position_relation.{key}": [None, value] for key, value in RELATION.items()}
WEIGHTED: dict[str, list[Any]] = {
    "losses.triplet.margin": ["soft", None],
    "losses.triplet.weight": [1.0, None],
    "losses.weighted_triplet.ratio": [None, 0.5],
    "losses.weighted_triplet.weight": [None, 1.0],
}
RPE: dict[str, list[Any]] = {"model.rpe.kind": ["none", "full"]}
# name, title, parent, declared differences, effect on the latent score, relative cost, question
CORE: list[tuple[str, str, str | None, dict[str, list[Any]], float, float, str]] = [
    ("naive_triplet", "Naive triplet", None, {}, 0.0, 1.0, "What does the plain recipe reach?"),
    ("p1", "Proposed 1", "naive_triplet", WEIGHTED, 0.05, 1.18, "Does weighting triplets by patch similarity help?"),
    ("p1_rpe", "Proposed 1 + RPE", "p1", RPE, 0.04, 1.31, "Do relative positions help beside absolute ones?"),
    ("p1_rpe_jsd", "Proposed 1 + RPE + JSD", "p1_rpe", JSD, 0.09, 1.62,
     "Does pulling the position-relation distributions of an identity together help?"),
    ("cls_no_ape", "CLS without APE", "p1_rpe_jsd", {"model.cls_position": ["none", "no_ape"]}, -0.06, 1.6,
     "Does the class token need an absolute position?"),
    ("cls_untie", "CLS untied", "p1_rpe_jsd", {"model.cls_position": ["none", "untie"]}, 0.005, 1.66,
     "Should the class token's position be untied from the patches'?"),
    ("jsd_layer", "JSD layer-wise", "p1_rpe_jsd",
     {"losses.position_relation.grouping": ["head", "layer"]}, -0.03, 1.55, "Is the grouping by head what matters?"),
    ("jsd_permutations", "JSD on permutations", "p1_rpe_jsd",
     {"losses.position_relation.pairs": ["combinations", "permutations"]}, 0.0, 1.74, "Do ordered pairs matter?"),
    ("pos_triplet", "Position triplet", "p1_rpe",
     {"losses.position_triplet.bias": [None, "concat"], "losses.position_triplet.weight": [None, 1.0]}, -0.5, 1.5,
     "Does a triplet on position relations train at all?"),
    ("p2", "Proposed 2 alone", "naive_triplet", {**RPE, **JSD}, 0.07, 1.44, "Is the position-relation loss enough?"),
]  # fmt: skip
RUN_COLUMNS = {
    **dict.fromkeys(("status", "reason", "config_hash", "code_hash", "code", "git_commit"), "string"),
    "data_fingerprint": "string",
    **dict.fromkeys(("epoch", "threads", "num_parameters", "flops_per_image", "peak_memory_bytes"), "Int64"),
    **dict.fromkeys(("device", "precision", "weights"), "string"), "synthetic": "boolean", "git_dirty": "boolean",
    **dict.fromkeys(("wall_s", "device_s", "images_per_s"), "Float64"),
}  # fmt: skip
DATASETS = [("market1501", "Market-1501", 1.1), ("occluded_duke", "Occluded-Duke", 0.1)]


def cell_entries(count: int = 10) -> list[dict[str, Any]]:
    """Returns `cells.json`: the core cells, then variants of `p1_rpe_jsd` in groups of their own."""
    extra = [
        (f"patches_{n}", f"JSD with {n} patches", "p1_rpe_jsd",
         {"losses.position_relation.patches": [5, n]}, 0.01 * (n % 5 - 2), 1.5 + n / 50, f"Are {n} patches better?")
        for n in range(6, 6 + max(0, count - len(CORE)))
    ]  # fmt: skip
    entries: list[dict[str, Any]] = []
    effects: dict[str, float] = {}
    for index, (name, title, parent, declared, effect, cost, question) in enumerate([*CORE, *extra][:count]):
        effects[name] = effect + (effects[parent] if parent else 0.0)
        references = list(dict.fromkeys(filter(None, [parent, "naive_triplet" if parent else None])))
        group = "main" if index < 4 or name == "p2" else "position" if index < len(CORE) else f"sweep {index // 10}"
        entries.append({
            "name": name, "title": title, "group": group, "tier": "core", "question": question, "notes": "",
            "extends": parent, "references": references, "seed_offset": 0, "declared": declared,
            "differences": {r: declared if r == parent else {**WEIGHTED, **RPE, **declared} for r in references},
            "config": {"effect": effects[name], "cost": cost}, "config_hash": f"{index:04x}c0ffee15900d",
        })  # fmt: skip
    return entries


def _logistic(z: Any) -> Any:
    return 1 / (1 + np.exp(-z))


def _queries(dataset: int, entry: dict[str, Any], seed: int, count: int) -> pd.DataFrame:
    """Returns the per-query table of a run; identities and noise are shared by all cells of a seed."""
    name, _, base = DATASETS[dataset]
    ids = np.arange(count) // 3 + 1
    difficulty = generator(0, "difficulty", dataset).normal(0, 1.1, ids.max() + 1)[ids]
    noise = generator(seed, "noise", dataset).normal(0, 0.7, count)
    own = generator(seed, "own", dataset, int(entry["config_hash"][:4], 16))
    z = base + difficulty + noise + entry["config"]["effect"] + own.normal(0, 0.02) + own.normal(0, 0.25, count)
    frames = []
    for side, shift in zip(SIDES, (0.0, -0.08), strict=True):
        ap = _logistic(z + shift)
        frames.append(pd.DataFrame({
            "dataset": name, "cell": entry["name"], "seed": seed, "side": side,
            "query": [f"{pid:04d}_c1s1_{row:06d}_00.jpg" for row, pid in enumerate(ids)], "pid": ids,
            "camid": 1 + ids % 3,
            "average_precision": ap, "average_precision_trapezoid": ap * (0.96 + 0.04 * ap),
            "inverse_negative_penalty": ap**2.5,
            "first_hit_rank": np.where(
                generator(seed, "first", dataset).random(count) < ap + 0.3 * (1 - ap), 1,
                1 + generator(seed, "later", dataset).geometric(0.08 + 0.2 * ap),
            ),
            "num_positives": 2 + ids % 7,
        }))  # fmt: skip
    return pd.concat(frames, ignore_index=True)


def _metrics(queries: pd.DataFrame) -> pd.DataFrame:
    keys = ["dataset", "cell", "seed", "side"]
    hits = queries["first_hit_rank"]
    values = queries[keys].assign(
        mAP=queries["average_precision"],
        mAP_trapezoid=queries["average_precision_trapezoid"],
        mINP=queries["inverse_negative_penalty"],
        **{f"rank{k}": (hits <= k).astype(float) for k in (1, 5, 10, 20)},
    )
    means = values.groupby(keys, sort=False).mean().reset_index()
    means["num_queries"], means["num_invalid"] = float(len(queries) // 2), 0.0
    return means.melt(keys, var_name="metric", value_name="value")


def _history(dataset: str, entry: dict[str, Any], seed: int, epochs: int) -> pd.DataFrame:
    rng = generator(seed, "history", int(entry["config_hash"][:4], 16))
    t = np.arange(epochs)
    decay = np.exp(-3 * t / epochs)
    curves: dict[str, np.ndarray] = {"identity": 3.6 * decay + 1.1, "triplet": 0.6 * decay + 0.12}
    if entry["name"] != "naive_triplet":
        curves["weighted_triplet"] = curves.pop("triplet") * 1.2
        curves["position_relation"] = 0.2 * decay + 0.02
    curves = {name: value + rng.normal(0, 0.03, epochs) * value for name, value in curves.items()}
    curves["total"] = np.sum(list(curves.values()), axis=0)
    curves |= {"lr": 0.02 * (1 + np.cos(np.pi * t / epochs)), "images_per_s": 900 + rng.normal(0, 20, epochs)}
    curves |= {"ape_norm": 6 + 0.05 * t, "rpe_norm": 1 + 0.1 * t, "feature_norm": 14 - 2 * decay}
    frame = pd.DataFrame(curves).assign(epoch=t).melt("epoch", var_name="name", value_name="value")
    return frame.assign(dataset=dataset, cell=entry["name"], seed=seed)[
        ["dataset", "cell", "seed", "epoch", "name", "value"]
    ]


def _run(dataset: str, entry: dict[str, Any], seed: int, status: str) -> dict[str, Any]:
    identity = {"dataset": dataset, "cell": entry["name"], "seed": seed, "status": status}
    if status == "missing":
        return {**identity, "reason": "no metrics.json in the run's folder"}
    cost = entry["config"]["cost"] * (1 + 0.02 * generator(seed, "cost").normal())
    diverged = {"epoch": 3, "reason": "the loss became nan at step 37"} if status == "diverged" else {}
    return {
        **identity, **diverged, "config_hash": entry["config_hash"], "code_hash": "5eed5eed5eed5eed",
        "code": "5eed5eed5eed5eed",
        "git_commit": "3f2a9c41d0e5b7f6a8c9d0e1f2a3b4c5d6e7f809", "git_dirty": False,
        "data_fingerprint": f"f1{len(dataset):02d}aa55aa55aa55", "synthetic": True, "device": "cpu", "threads": 1,
        "precision": "fp32", "weights": "pretrain", "flops_per_image": 3_912_704,
        "num_parameters": 41_216 + 512 * int(entry["config_hash"][:4], 16),
        "wall_s": 11.4 * cost, "device_s": 11.1 * cost, "images_per_s": 940 / cost,
        "peak_memory_bytes": int(410e6 * cost),
    }  # fmt: skip


def _statistics(tables: dict[str, pd.DataFrame], entries: list[dict[str, Any]]) -> dict[str, pd.DataFrame]:
    """Returns the contrasts and slices of the invented scores, judged by the statistics of the package."""
    deltas = {name: {"mAP": 0.004} for name, _, _ in DATASETS}
    arguments: dict[str, Any] = {"deltas": deltas, "headline_side": SIDES[0], "borrowed": [n for n, _, _ in DATASETS]}
    known = [{key: value for key, value in entry.items() if key != "config"} for entry in entries]  # nothing undeclared
    scores = (tables["queries"], tables["runs"], known)
    return {"contrasts": contrast_table(*scores, **arguments), "slices": slice_table(*scores, **arguments)}


def _study(seeds: int, entries: list[dict[str, Any]], queries: int, synthetic: bool) -> dict[str, Any]:
    counts = {
        "train": {"images": 768, "ids": 96}, "query": {"images": queries, "ids": queries // 3},
        "gallery": {"images": 612, "ids": 60}, "junk": 40, "distractors": 64, "cameras": 6,
    }  # fmt: skip
    return {
        "preset": "quickstart", "synthetic": synthetic,
        "datasets": [
            {"name": name, "title": title, "format": name, "root": f"data/{name}", "synthetic": synthetic,
             "generated": synthetic, "counts": counts, "official_counts": not synthetic, "warnings": [],
             "fingerprint": f"f1{len(name):02d}aa55aa55aa55"}
            for name, title, _ in DATASETS
        ],
        "missing_datasets": [], "seeds": list(range(seeds)),
        "runs": [[name, e["name"], seed] for name, _, _ in DATASETS for e in entries for seed in range(seeds)],
        "notices": ["No real data was found, so procedural pedestrians were used."] if synthetic else [],
        "headline": "before_neck",
        "created": "2025-01-01T12:00:00+00:00",
        "code": {"git_commit": "3f2a9c41d0e5b7f6a8c9d0e1f2a3b4c5d6e7f809", "git_dirty": False, "version": "0.1.0"},
        "packages": {"numpy": "2.4.0", "timm": "1.0.31", "torch": "2.15.0"},
        "machine": {"cpu": "2 cores", "memory": "24 GB", "gpu": "none", "python": "3.11.9"},
    }  # fmt: skip


def _floors() -> pd.DataFrame:
    return pd.DataFrame(
        [
            (name, method, base * scale, base * scale * 1.3, note)
            for name, base in (("market1501", 0.31), ("occluded_duke", 0.19))
            for method, scale, note in (
                ("colour stripes", 1.0, "nearest neighbour on camera-standardised stripes"),
                ("untrained network", 0.55, "random weights"),
            )
        ],
        columns=["dataset", "method", "mAP", "rank1", "note"],
    )


def _claims() -> pd.DataFrame:
    """Returns the table `claims` with a judged row of each kind that the page shows, and one that is not tested."""
    shared = {"kind": "gain", "side": "after_neck", "metric": "mAP", "source": "slides, one run each", "note": ""}
    found = {"num_seeds": 3, "p_adjusted": 0.004, "chance": 0.237, "chance_if_equal": 0.0042}
    quoted = {"quoted": "naive_triplet, before_neck", "uncontrolled": 0.0052}
    defined = {"defined_cell": "p1_rpe", "defined_estimate": 0.0021, "defined_low": -0.0004, "defined_high": 0.0046}
    rows = [
        {
            **shared, **found, **quoted, **defined, "claim": "market_p1_map", "title": "Proposed 1 gains 0.39 mAP",
            "dataset": "market1501", "cell": "p1", "reference": "naive_triplet", "gain": 0.0039, "estimate": 0.0031,
            "low": 0.0004, "high": 0.0058, "width": 0.0054, "defined_verdict": "undecided", "verdict": "confirmed",
            "schedule": "not recorded", "contradictions": "One run each.",
        },
        {
            **shared, **found, "claim": "duke_p2_map", "title": "Proposed 2 gains 0.85 mAP",
            "dataset": "occluded_duke", "cell": "p2", "reference": "naive_triplet", "gain": 0.0085, "estimate": 0.0012,
            "low": -0.003, "high": 0.0054, "width": 0.0084, "p_adjusted": 0.41, "verdict": "refuted",
            "schedule": "180 epochs", "contradictions": "",
        },
        {
            **shared, "kind": "divergence", "claim": "position_triplet", "title": "The position triplet diverges",
            "dataset": "market1501", "cell": "pos_triplet", "reference": "p1_rpe", "metric": None, "schedule": "",
            "verdict": "not tested (no diagnostics)", "note": "There are no tables of it.",
        },
    ]  # fmt: skip
    frame = pd.DataFrame(rows, columns=list(CLAIM_COLUMNS))
    return frame.astype({name: kind for name, (kind, _) in CLAIM_COLUMNS.items()})


def _calibration() -> pd.DataFrame:
    """Returns what `reidablate stats calibrate` writes, with invented rates."""
    rows = [
        {
            "test_set": name, "shape": shape, "effects": "typical", "seeds": seeds, "num_contrasts": 1,
            "gain_points": gain, "interval": interval, "experiments": 10_000 if gain == 0 else 1_000,
            "rejection": false + (0.9 - false) * gain * seeds / 10, "rejection_strict": false / 8,
            "coverage": 1 - false, "half_width_points": 1 / seeds, "error_points": 0.5 / seeds,
            "seed_error_points": 0.4 / seeds, "identity_error_points": 0.3 / seeds, "monte_carlo_error": 0.0022,
            "within_bounds": interval == "two_way" if gain == 0 else None,
        }
        for name, _, _ in DATASETS
        for shape in ("normal", "skewed")
        for seeds in (3, 5, 10)
        for gain in (0.0, 0.5, 1.0)
        for interval, false in (("two_way", 0.05 + 0.03 / seeds), ("seeds_only", 0.31), ("plain_sum", 0.004))
    ]  # fmt: skip
    families = [
        {
            "test_set": "families", "shape": "normal", "effects": "even", "seeds": seeds, "num_contrasts": size,
            "gain_points": 0.0, "interval": procedure, "experiments": 10_000, "rejection": rate + size / 1e4,
            "rejection_strict": rate / 9, "monte_carlo_error": 0.0022, "seed_spread": 0.0, "sampling_ratio": 0.3,
            "within_bounds": procedure == "holm" or None,
        }
        for seeds in (3, 5, 10)
        for size in (6, 32)
        for procedure, rate in (("holm", 0.04), ("dunnett", 0.07))
    ]  # fmt: skip
    return pd.DataFrame([*rows, *families]).astype({"within_bounds": "boolean"})


def _cross_domain(metrics: pd.DataFrame) -> pd.DataFrame:
    """Returns scores on the other data set of two cells, by half as good as on their own."""
    chosen = metrics[metrics["cell"].isin(["naive_triplet", "p1"])]
    other = {name: DATASETS[1 - i][0] for i, (name, _, _) in enumerate(DATASETS)}
    table = chosen.assign(on=chosen["dataset"].map(other), value=chosen["value"] / 2)
    return table[["dataset", "on", "cell", "seed", "side", "metric", "value"]]


def _camera_pairs(entries: list[dict[str, Any]], seeds: int) -> pd.DataFrame:
    """Returns scores by pair of cameras; from camera 3 nobody is seen in camera 1."""
    rng = generator(0, "pairs")
    rows = [
        {"dataset": name, "cell": entry["name"], "seed": seed, "side": "before_neck", "query_camid": query,
         "gallery_camid": gallery, "num_queries": 0 if (query, gallery) == (3, 1) else 10 + query,
         "num_invalid": 20, "mAP": math.nan if (query, gallery) == (3, 1) else rng.uniform(0.2, 0.9),
         "rank1": rng.uniform(0.3, 1.0)}
        for name, _, _ in DATASETS for entry in entries for seed in range(seeds)
        for query in range(1, 7) for gallery in range(1, 7) if query != gallery
    ]  # fmt: skip
    return pd.DataFrame(rows)


def _imported() -> pd.DataFrame:
    """Returns two runs of other code bases: one with both sides of the neck, one given as distances."""
    rng = generator(0, "imported")
    runs = [("transreid", side) for side in SIDES] + [("their_distances", "distances")]
    rows = [
        {"dataset": "market1501", "name": name, "side": side, "metric": metric, "value": rng.uniform(0.4, 0.9),
         "source": f"elsewhere/{name}.npz", "sha256": f"{len(name):064x}", "imported": "2025-01-01T12:00:00+00:00"}
        for name, side in runs for metric in ("mAP", "rank1", "rank5", "rank10", "rank20", "mINP", "num_queries")
    ]  # fmt: skip
    return pd.DataFrame(rows)


def _samples(path: Path, dataset: int) -> None:
    """Draws a sheet of eight stick-built pedestrians."""
    rng = generator(7, "samples", dataset)
    sheet = Image.new("RGB", (8 * 66, 130), "#808890")
    draw = ImageDraw.Draw(sheet)
    for column in range(8):
        left = 66 * column
        draw.rectangle((left, 0, left + 63, 129), fill=tuple(rng.integers(120, 190, 3).tolist()))
        upper, lower = (tuple(rng.integers(20, 235, 3).tolist()) for _ in range(2))
        draw.ellipse((left + 24, 10, left + 40, 28), fill=(214, 170, 140))
        draw.rectangle((left + 18, 30, left + 46, 74), fill=upper)
        draw.rectangle((left + 20, 75, left + 44, 120), fill=lower)
    sheet.save(path, quality=80)


def write_results(
    results: Path,
    *,
    cells: int = 10,
    seeds: int = 3,
    queries: int = 120,
    epochs: int = 12,
    synthetic: bool = True,
    optional: bool = True,
    failures: bool = True,
    smoke: bool = False,
) -> Path:
    """Writes `results/tables/*` and returns `results`; `optional=False` leaves every optional table out."""
    tables = results / "tables"
    tables.mkdir(parents=True, exist_ok=True)
    entries = cell_entries(cells)
    planned = [(d, entry, seed) for d in range(len(DATASETS)) for entry in entries for seed in range(seeds)]
    broken = {(0, "pos_triplet", 1): "diverged", (1, "cls_untie", 2): "missing"} if failures else {}
    status = [broken.get((d, entry["name"], seed), "finished") for d, entry, seed in planned]
    whole = [plan for plan, word in zip(planned, status, strict=True) if word == "finished"]
    per_query = pd.concat([_queries(d, entry, seed, queries) for d, entry, seed in whole], ignore_index=True)
    metrics = _metrics(per_query)
    runs = pd.DataFrame(
        [_run(DATASETS[d][0], entry, seed, word) for (d, entry, seed), word in zip(planned, status, strict=True)]
    )
    columns = ["dataset", "cell", "seed", *RUN_COLUMNS]
    frames = {"runs": runs.reindex(columns=columns).astype(RUN_COLUMNS), "metrics": metrics}
    if optional:
        frames |= {
            "queries": per_query,
            "history": pd.concat([_history(DATASETS[d][0], entry, seed, epochs) for d, entry, seed in whole]),
            **_statistics({"queries": per_query, "runs": frames["runs"]}, entries),
            "floors": _floors(),
            "claims": _claims(),
            "calibration": _calibration(),
            "cross_domain": _cross_domain(metrics),
            "camera_pairs": _camera_pairs(entries, seeds),
            "imported": _imported(),
        }
        frames["joint"] = joint_table(frames["contrasts"])
        for index, (name, _, _) in enumerate(DATASETS):
            _samples(tables / f"samples_{name}.jpg", index)
    for name, frame in frames.items():
        frame.to_parquet(tables / f"{name}.parquet", index=False)
    study = _study(seeds, entries, queries, synthetic) | {"smoke": smoke}
    for name, value in (("cells", entries), ("study", study)):
        (tables / f"{name}.json").write_text(json.dumps(value, indent=2), encoding="utf-8")
    return results


if __name__ == "__main__":
    print(write_results(Path(sys.argv[1]), cells=int(sys.argv[2]) if len(sys.argv) > 2 else 10))


def write_shares(folder: Path, shares: dict[str, float]) -> Path:
    """Results whose cells log these shares, twice as much in the first epoch."""
    results = write_results(folder / "quickstart", cells=8, queries=45, epochs=2)
    path = results / "tables" / "history.parquet"
    history = pd.read_parquet(path)
    keys = history[["dataset", "cell", "seed", "epoch"]].drop_duplicates()
    frames = [history]
    for name, factor in (("rpe_share", 1.0), ("max_probability", 0.5), ("block_1", 0.1), ("block_2", 0.3)):
        own = keys[keys["cell"].isin(list(shares))].assign(name=f"position_relation_{name}")
        scale = own["epoch"].map({0: 2.0, 1: 1.0}) * factor
        frames.append(own.assign(value=own["cell"].map(shares) * scale))
    pd.concat(frames, ignore_index=True).to_parquet(path)
    return results
