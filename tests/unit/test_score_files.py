"""Scoring files of other people's features, from the command line."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from reidablate.cli import app
from reidablate.errors import UserError
from reidablate.metrics import files, score, score_distances
from reidablate.metrics.files import Options, read_file, score_file
from reidablate.metrics.rerank import Constants, rerank


def problem(
    num_queries: int = 9, num_gallery: int = 60, dim: int = 11, num_ids: int = 5, seed: int = 0
) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "query_features": rng.standard_normal((num_queries, dim)).astype(np.float32),
        "gallery_features": rng.standard_normal((num_gallery, dim)).astype(np.float32),
        "query_pids": rng.integers(0, num_ids, num_queries),
        "gallery_pids": rng.integers(-1, num_ids, num_gallery),
        "query_camids": rng.integers(0, 3, num_queries),
        "gallery_camids": rng.integers(0, 3, num_gallery),
    }


def labels_of(given: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in given.items() if key.endswith(("pids", "camids"))}


def without_features(given: dict[str, Any], distances: np.ndarray) -> dict[str, Any]:
    return labels_of(given) | {"distances": distances}


def saved(folder: Path, given: dict[str, Any], name: str = "a.npz") -> Path:
    np.savez(folder / name, **given)
    return folder / name


def mapped(path: Path) -> bool:
    features = read_file(path)["features"].gallery_features
    assert features is not None
    return isinstance(features.base, np.memmap)


def run(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_features_of_a_file_score_as_in_memory(tmp_path: Path) -> None:
    given = problem()
    wanted = score(**given).summary()
    found = json.loads(run("score", saved(tmp_path, given), "--json"))
    assert found["features"] == wanted
    assert found["protocol"]["rerank"] is None
    assert found["protocol"]["num_junk"] == (given["gallery_pids"] == -1).sum()


def test_our_own_features_are_scored_on_both_sides_of_the_neck(tmp_path: Path) -> None:
    before, after = problem(seed=1), problem(seed=1)
    after["query_features"], after["gallery_features"] = -problem(seed=2)["query_features"], after["gallery_features"]
    names = np.array([f"{i:04}_c1.jpg" for i in range(9)])
    given = labels_of(before) | {"query_names": names, "gallery_names": np.array(["x.jpg"] * 60)}
    for side, features in (("before_neck", before), ("after_neck", after)):
        given |= {f"{s}_{side}": features[f"{s}_features"] for s in ("query", "gallery")}
    out = tmp_path / "queries.parquet"
    found = json.loads(run("score", saved(tmp_path, given), "--json", "--per-query", out))
    assert found["before_neck"] == score(**before).summary()
    assert found["after_neck"] == score(**after).summary()
    table = pd.read_parquet(out)
    assert set(table["side"]) == {"before_neck", "after_neck"}
    wanted = score(**after, query_names=names).queries
    pd.testing.assert_frame_equal(
        table[table["side"] == "after_neck"].drop(columns="side").reset_index(drop=True), wanted, check_dtype=False
    )


def test_distances_stand_in_place_of_features(tmp_path: Path) -> None:
    given = problem()
    distances = np.random.default_rng(3).random((9, 60)).astype(np.float32)
    found, protocol = score_file(saved(tmp_path, without_features(given, distances)), Options())
    assert found["distances"].summary() == score_distances(distances, **labels_of(given)).summary()
    assert protocol["distance"] == "as given"


def test_table_names_what_was_measured(tmp_path: Path) -> None:
    path = saved(tmp_path, problem())
    text = run("score", path, "--rerank", "7,3,0.3")
    summary = score_file(path, Options(rerank="7,3,0.3"))[0]["features"].summary()
    assert f"{100 * summary['mAP']:.2f}" in text
    assert "mAP (step sum)" in text
    assert "7/3/0.3 on squared Euclidean distance of L2-normalised features" in text


def test_reranking_sees_no_junk(tmp_path: Path) -> None:
    given = problem()
    kept = given["gallery_pids"] != -1
    found = score_file(saved(tmp_path, given), Options(rerank="7,3,0.3,4"))[0]["features"]
    distances = rerank(given["query_features"], given["gallery_features"][kept], Constants(7, 3, 0.3, 4))
    labels = labels_of(given)
    labels |= {key: value[kept] for key, value in labels.items() if key.startswith("gallery")}
    assert found.summary() == score_distances(distances, **labels).summary()


def test_kept_junk_counts_as_wrong_answers(tmp_path: Path) -> None:
    given = problem()
    given["query_pids"][0] = -1  # asks for nobody, also when junk is kept
    relabelled = given | {"gallery_pids": np.where(given["gallery_pids"] == -1, 99, given["gallery_pids"])}
    found = score_file(saved(tmp_path, given), Options(keep_junk=True))[0]["features"]
    assert found.summary() == score(**relabelled).summary()
    assert found.summary()["mAP"] < score(**given).summary()["mAP"]


def test_single_gallery_shot_leaves_one_image_of_each_identity_from_other_cameras(tmp_path: Path) -> None:
    given = problem(num_queries=30, num_gallery=200)
    path = saved(tmp_path, given)
    found = score_file(path, Options(single_gallery_shot=1))[0]["features"]
    assert (found.columns["num_positives"] == 1).all()
    assert found.columns["first_hit_rank"].max() <= 5  # there are five identities
    assert np.allclose(found.columns["average_precision"], 1 / found.columns["first_hit_rank"])
    again = score_file(path, Options(single_gallery_shot=1))[0]["features"]
    other = score_file(path, Options(single_gallery_shot=2))[0]["features"]
    assert again.queries.equals(found.queries)
    assert not other.queries.equals(found.queries)
    # An identity that no other camera saw cannot be drawn for that camera's queries.
    lonely = given | {"gallery_camids": np.where(given["gallery_pids"] == 0, 2, given["gallery_camids"])}
    lonely["query_pids"][:3], lonely["query_camids"][:3] = 0, [2, 1, 2]
    invalid = ((lonely["query_pids"] == 0) & (lonely["query_camids"] == 2)).sum()
    assert invalid >= 2
    scores = score_file(saved(tmp_path, lonely), Options(single_gallery_shot=1))[0]["features"]
    assert scores.num_invalid == invalid


def test_multi_query_pools_what_one_camera_saw_of_one_person(tmp_path: Path) -> None:
    given = problem(num_queries=4)
    given |= {"query_pids": np.array([3, 1, 3, 3]), "query_camids": np.array([1, 0, 1, 2])}
    unit = given["query_features"].astype(float)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    pooled = given | {
        "query_features": np.stack([unit[0] + unit[2], unit[1], unit[3]]),
        "query_pids": np.array([3, 1, 3]),
        "query_camids": np.array([1, 0, 2]),
    }
    found = score_file(saved(tmp_path, given), Options(multi_query=True))[0]["features"]
    assert found.columns["query"].tolist() == ["0", "1", "3"]
    assert found.summary() == score(**pooled).summary()


def test_large_stored_arrays_are_mapped_and_score_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = problem()
    given["gallery_features"] = np.asfortranarray(given["gallery_features"].astype(np.float16))
    wanted = score(**given).summary()
    monkeypatch.setattr(files, "MAPPED_FROM_BYTES", 1)
    path = saved(tmp_path, given)
    assert mapped(path)
    assert score_file(path, Options())[0]["features"].summary() == wanted
    np.savez_compressed(path, **given)
    assert not mapped(path)
    assert score_file(path, Options())[0]["features"].summary() == wanted


def broken(folder: Path, kind: str) -> tuple[Path, str]:
    """Returns a file that must be refused, and words of the sentence."""
    given = problem()
    path = saved(folder, given)
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
        return path, "cannot be read as an .npz archive"
    if kind == "damaged":
        data = path.read_bytes()
        place = data.index(given["gallery_features"][5].tobytes())
        path.write_bytes(data[:place] + b"\xff" + data[place + 1 :])
        return path, "gallery_features of .* cannot be read"
    if kind == "missing":
        return folder / "none.npz", "is missing"
    if kind == "text":
        path.write_text("pid,camid\n")
        return path, "cannot be read as an .npz archive"
    if kind == "pickled":
        np.savez(path, **given | {"query_pids": np.array([1, None, "x"] * 3, dtype=object)})
        return path, "query_pids of .* cannot be read"
    changes = {
        "strings": ({"query_pids": given["query_pids"].astype(str)}, "query_pids holds <U21 such as"),
        "nan": ({"gallery_features": given["gallery_features"] * np.nan}, "row 0 of gallery_features"),
        "constant": ({"gallery_features": np.ones((60, 11))}, "gallery_features are constant"),
        "lengths": ({"gallery_pids": given["gallery_pids"][1:]}, r"gallery_pids has shape \(59,\)"),
        "empty": ({"gallery_features": np.ones((0, 11))}, "gallery side is empty"),
        "invalid": ({"gallery_pids": np.full(60, 77)}, "no query has a positive"),
    }
    if kind in changes:
        change, words = changes[kind]
        return saved(folder, given | change), words
    if kind == "unnamed":
        np.savez(path, *given.values())
        return path, "it should hold query_pids"
    assert kind == "negative"
    return saved(folder, without_features(given, -np.ones((9, 60)))), "give finite distances of at least 0"


BAD = [
    "truncated",
    "damaged",
    "missing",
    "text",
    "pickled",
    "unnamed",
    "strings",
    "nan",
    "constant",
    "lengths",
    "empty",
]
BAD += ["invalid", "negative"]


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_refused_with_a_sentence(tmp_path: Path, kind: str) -> None:
    path, words = broken(tmp_path, kind)
    with pytest.raises(UserError, match=words):
        score_file(path, Options())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (Options(rerank="20,6"), "write K1,K2,LAMBDA"),
        (Options(rerank="20,6,x"), "write K1,K2,LAMBDA"),
        (Options(rerank="20,60,0.3"), "re-ranking constants are k1 20"),
        (Options(rerank="20,6,0.3", single_gallery_shot=0), "needs the whole gallery"),
    ],
)
def test_options_that_make_no_sense_are_refused(tmp_path: Path, options: Options, words: str) -> None:
    with pytest.raises(UserError, match=words):
        score_file(saved(tmp_path, problem()), options)


def test_distances_alone_can_be_neither_reranked_nor_pooled(tmp_path: Path) -> None:
    path = saved(tmp_path, without_features(problem(), np.random.default_rng(0).random((9, 60))))
    for options in (Options(rerank="20,6,0.3"), Options(multi_query=True)):
        with pytest.raises(UserError, match="need features"):
            score_file(path, options)


def test_the_command_leaves_with_status_2_and_one_line(tmp_path: Path) -> None:
    path, _ = broken(tmp_path, "truncated")
    command = Path(sys.executable).parent / "reidablate"
    done = subprocess.run([command, "score", path], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("reidablate: ")
    assert done.stderr.count("\n") == 1


def test_scoring_imports_neither_torch_nor_pandas(tmp_path: Path) -> None:
    code = (
        "import sys; from reidablate.cli import main; sys.argv = sys.argv[1:]\n"
        "try: main()\nfinally: assert not {'torch', 'pandas', 'scipy'} & set(sys.modules), 'heavy import'"
    )
    path = saved(tmp_path, problem())
    done = subprocess.run([sys.executable, "-c", code, "reidablate", "score", path], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
