"""What is beyond a limit is refused by a sentence before it costs time or memory; what the machine lacks is named."""

import os
from pathlib import Path

import numpy as np
import pytest

from reidablate.artifacts import read_json, write_table
from reidablate.cells import load_cells
from reidablate.engine.batches import SPARE_BYTES, affordable_workers
from reidablate.engine.devices import _own_folder
from reidablate.errors import UserError, knob, plain, sentence
from reidablate.metrics.checks import check_distances, check_labels
from reidablate.report.drawing import unique_slug


def test_a_sweep_of_too_many_points_is_not_expanded(tmp_path: Path) -> None:
    values = list(range(100))
    (tmp_path / "a.yaml").write_text(f"name: a\nsweep: {{train.a: {values}, train.b: {values}, train.c: {values}}}\n")
    (line,) = load_cells(tmp_path, []).notices
    assert "the sweep has 1000000 points, more than 500" in line


def test_a_seed_fits_a_folder_name_and_a_table(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("name: a\nseed_offset: 1000000000000\n")
    (line,) = load_cells(tmp_path, []).notices
    assert "'seed_offset' is 1000000000000 but should be less than" in line


@pytest.mark.parametrize("number", ["9" * 5000, "9223372036854775808", "1e999", "NaN"])
def test_numbers_that_no_table_holds_are_not_read(tmp_path: Path, number: str) -> None:
    (tmp_path / "a.json").write_text(f'{{"epoch": {number}}}')
    with pytest.raises(UserError, match="cannot be read as a JSON file"):
        read_json(tmp_path / "a.json")


def test_ids_keep_their_value_or_are_refused() -> None:
    def labels(pid: int) -> None:
        pids = np.array([pid], np.uint64)
        found = check_labels((1, 1), pids=(pids, pids), camids=([0], [1]), names=None)
        assert found.query_pids.tolist() == [pid]

    labels(2**63 - 1)
    for pid in (2**63, 2**64 - 1):
        with pytest.raises(UserError, match=f"query_pids holds {pid}"):
            labels(pid)


def test_a_zero_with_rounding_errors_is_a_distance_and_a_similarity_is_not() -> None:
    features = np.abs(np.random.default_rng(0).normal(size=(40, 512))).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    distances = 1 - features @ features.T
    assert distances.min() < 0
    check_distances(distances)
    check_distances(distances.astype(np.float64))
    check_distances(1000 * distances)
    last = distances.copy()
    last[:, -3:] = 1e9  # junk that is to come last
    check_distances(last)
    negated = last - 1
    negated[:, -3:] = 1e9
    small = (1e-9 * (distances - 0.5), np.array([[-1e-3, 1]]), np.array([[-1.23456789e-7, 1.0]]))
    for wrong in (distances - 1, negated, *small):
        with pytest.raises(UserError, match="of distances holds -"):
            check_distances(wrong)


def test_the_folder_of_the_device_locks_is_ones_own(tmp_path: Path) -> None:
    _own_folder(tmp_path / "new")
    (tmp_path / "link").symlink_to(tmp_path / "new")
    with pytest.raises(UserError, match="is a link or a file; remove it, or set TMPDIR"):
        _own_folder(tmp_path / "link")
    (tmp_path / "new").chmod(0o777)
    with pytest.raises(UserError, match="can be written by other users"):
        _own_folder(tmp_path / "new")


@pytest.mark.skipif(os.getuid() != 0 and not os.environ.get("CI"), reason="only root owns no other user's folder")
def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    if os.getuid() == 0:
        (tmp_path / "theirs").mkdir(mode=0o700)
        os.chown(tmp_path / "theirs", 12345, 12345)
        with pytest.raises(UserError, match="belongs to another user"):
            _own_folder(tmp_path / "theirs")


@pytest.mark.parametrize(("free", "workers"), [(0, 0), (SPARE_BYTES, 0), (SPARE_BYTES + 7, 2), (SPARE_BYTES + 99, 4)])
def test_loader_processes_are_as_many_as_shared_memory_holds(free: int, workers: int) -> None:
    assert affordable_workers(4, 1, free) == workers


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(28, "No space left on device"), "--shm-size"),
        (FileNotFoundError(2, "No usable temporary directory found in ['/x']"), "set TMPDIR"),
        (OSError(24, "Too many open files"), "ulimit -n"),
    ],
)
def test_errors_of_the_system_without_a_file_name_a_knob(error: OSError, words: str) -> None:
    assert words in sentence(error)


def test_memory_that_ran_out_names_a_knob_and_a_fault_of_the_code_does_not() -> None:
    assert "start fewer jobs" in (knob(MemoryError()) or "")
    assert "--shm-size" in (knob(RuntimeError("unable to allocate shared memory(shm) for file </torch_1>")) or "")
    assert "nvidia-smi" in (knob(RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")) or "")
    assert knob(RuntimeError("shapes differ")) is None


def test_codes_of_a_terminal_never_reach_a_sentence() -> None:
    assert sentence(UserError("\x1b[31mred\x1b[0m\x07 a\r\n  b \x1b]0;title\x07c\ud800")) == "red a b c\\ud800"
    assert plain("\u05e9\u00fc") == "\u05e9\u00fc"


def test_a_spreadsheet_computes_nothing(tmp_path: Path) -> None:
    import pandas as pd

    texts = ["=1+1", "@x", "-1+2", "-1_c1s1_000451_03.jpg", "a=b"]
    write_table(pd.DataFrame({"a": texts, "b": [-1, 2, 3, 4, 5]}), tmp_path / "a.csv")
    found = pd.read_csv(tmp_path / "a.csv")
    assert found["a"].tolist() == ["'=1+1", "'@x", "'-1+2", *texts[3:]]
    assert found["b"].tolist() == [-1, 2, 3, 4, 5]


def test_names_in_any_script_give_figures_of_their_own() -> None:
    names = ["\u4f4d\u7f6e", "\u635f\u5931", "Main", "main", "a b", "a_b", "x" * 200 + "1", "x" * 200 + "2"]
    assert len({unique_slug(name) for name in names}) == len(names)
    assert unique_slug("main") == "main"
