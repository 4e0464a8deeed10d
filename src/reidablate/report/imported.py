"""Runs of other code bases beside the runs of a study: scored here, trained elsewhere.

An import is a reference and no more. It is one run, so it has no interval, and it enters no comparison.
"""

import datetime
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import BaseModel, RootModel, model_validator

from reidablate import provenance
from reidablate.artifacts import only_writer, read_record, sha256_file, write_json, write_record
from reidablate.cells import check_name
from reidablate.data.formats import JUNK, image_key
from reidablate.data.index import read_index
from reidablate.errors import UserError
from reidablate.integrity import broken_files
from reidablate.metrics.checks import Labels
from reidablate.metrics.files import Options, read_file, read_image_names, score_file, write_queries
from reidablate.study import Study, latest_study

FOLDER = "imported"
IMPORT_COLUMNS = ("dataset", "name", "side", "metric", "value", "source", "sha256", "imported")
_Images = Counter[tuple[Any, ...]]  # how often there is a (pid, camid) or (pid, camid, name)


class _Made(BaseModel):
    source: str
    source_sha256: str
    imported: str
    data_fingerprint: str

    @model_validator(mode="before")
    @classmethod
    def _of_0_1_0(cls, data: Any) -> Any:
        """That version wrote the SHA-256 of the source alone, as `sha256`."""
        if isinstance(data, dict) and isinstance(data.get("sha256"), str):
            return {"source_sha256": data["sha256"], **data}
        return data


class _Sides(RootModel[dict[str, dict[str, float]]]):
    pass


def find_results(folder: Path = Path("results")) -> Path:
    """Returns the one `results/<preset>` that holds a study.

    Raises:
        UserError: There is none, or more than one.
    """
    found = sorted(plans.parent for plans in folder.glob("*/plans"))
    if len(found) == 1:
        return found[0]
    if not found:
        raise UserError(f"there is no study in {folder}; run snakemake first, or give its results/<preset>.")
    raise UserError(f"there are several studies ({', '.join(map(str, found))}); give one of them.")


def import_run(name: str, path: Path, *, dataset: str, results: Path) -> str:
    """Scores a file of features or distances as a reference row of a study and returns the line that sums it up.

    It writes `imported/<dataset>/<name>/` with `metrics.json`, `queries.parquet` and `provenance.json`, all of them or
    none; an import of that name is replaced. Deleting the folder takes the import back.

    Args:
        name: What the tables call it.
        path: An `.npz` as `metrics.files` reads it; `query_names` and `gallery_names` are compared where they stand.
        dataset: The data set of the study whose query and gallery the file holds.
        results: The study's `results/<preset>`.

    Raises:
        UserError: The name is not safe or a cell's; the study has no such data set, or its index is not built; the
            file holds other images than the index; or it cannot be scored.
    """
    study = latest_study(results)
    _check_name(name, study)
    index = read_index(results / "data" / study.dataset(dataset).name / "index")
    problem = next(iter(read_file(path).values()))
    shift = _match(problem.labels, read_image_names(path), index.frame, path=path, dataset=dataset)
    scores, protocol = score_file(path, Options())
    summary = {side: result.summary() for side, result in scores.items()}
    facts = {
        "name": name,
        "dataset": dataset,
        "source": str(path.resolve()),
        "source_sha256": sha256_file(path),
        "imported": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "protocol": protocol,
        "camid_shift": shift,
        "data_fingerprint": index.summary["fingerprint"],
        "versions": provenance.versions(),
    }
    folder = results / FOLDER / dataset
    with only_writer(folder, f"import of {name}"):
        fresh, old = folder / f".{name}.new", folder / f".{name}.old"
        if old.exists() and not (folder / name).exists():  # the last import died between its two renames
            old.rename(folder / name)
        for left in (fresh, old):
            shutil.rmtree(left, ignore_errors=True)
        write_queries(scores, fresh / "queries.parquet")
        write_json(fresh / "metrics.json", summary)
        write_record(fresh / "provenance.json", facts, ["queries.parquet", "metrics.json"])
        if (folder / name).exists():
            (folder / name).rename(old)
        fresh.rename(folder / name)
        shutil.rmtree(old, ignore_errors=True)
    found = [
        f"mAP {100 * best['mAP']:.2f}, Rank-1 {100 * best['rank1']:.2f} ({side})" for side, best in summary.items()
    ]
    return f"{name} on {dataset}: {', '.join(found)}; the next snakemake call puts it into tables and report"


def _check_name(name: str, study: Study) -> None:
    check_name(name, "the name")
    if name in {cell.name for cell in study.cells}:
        raise UserError(f"'{name}' is a cell of the study; give the import a name of its own, such as their_{name}.")


def _match(labels: Labels, names: Mapping[str, Any], frame: pd.DataFrame, *, path: Path, dataset: str) -> int:
    """Returns what the file's camids lack to be those of the index: many code bases count cameras from 0.

    Junk is not compared. It never counts, and many code bases leave it out.

    Raises:
        UserError: Query or gallery hold other images than the index, or the gallery has not one name an image.
    """
    shape, wanted = np.shape(names.get("gallery_names", labels.gallery_pids)), labels.gallery_pids.shape
    if shape != wanted:
        raise UserError(
            f"{path}: gallery_names has shape {shape}, not {wanted}; give one name an image, or none at all."
        )
    frame = frame[(frame["split"] != "train") & (frame["pid"] != JUNK)]
    camids = np.concatenate([labels.query_camids, labels.gallery_camids[labels.gallery_pids != JUNK]])
    shifts = dict.fromkeys((0, int(frame["camid"].min()) - int(camids.min())))
    tries = {shift: _differences(labels, names, frame, shift) for shift in shifts}
    shift, differences = min(tries.items(), key=lambda item: sum(map(Counter.total, sum(item[1].values(), ()))))
    for split, (extra, missing) in differences.items():
        problems = [
            f"{found.total()} {what}, such as {_image(min(found))}"
            for found, what in ((missing, f"of {dataset} are not in the file"), (extra, f"are not in {dataset}"))
            if found
        ]
        if problems:
            raise UserError(
                f"{path} holds other {split} images than {dataset}: {'; '.join(problems)}. Give the features of this "
                "very data set" + (", or leave names out that are no file names." if f"{split}_names" in names else ".")
            )
    return shift


def _differences(
    labels: Labels, names: Mapping[str, Any], frame: pd.DataFrame, shift: int
) -> dict[str, tuple[_Images, _Images]]:
    """Returns {split: (images of the file that the index lacks, images of the index that the file lacks)}."""
    found = {}
    for split in ("query", "gallery"):
        pids, camids = getattr(labels, f"{split}_pids"), getattr(labels, f"{split}_camids") + shift
        columns, own = [pids, camids], frame.loc[frame["split"] == split, ["pid", "camid", "name"]]
        own = own.assign(name=own["name"].map(image_key))
        if f"{split}_names" in names:
            columns.append([image_key(str(name)) for name in names[f"{split}_names"]])
        given = pd.DataFrame(dict(zip(own.columns, columns, strict=False)))
        counts = [Counter(rows[list(given.columns)].itertuples(index=False, name=None)) for rows in (given, own)]
        theirs, ours = counts[0], counts[1]
        found[split] = (Counter({k: n for k, n in (theirs - ours).items() if k[0] != JUNK}), ours - theirs)
    return found


def _image(key: tuple[Any, ...]) -> str:
    return f"pid {key[0]} of camera {key[1]}" + "".join(f" ({name})" for name in key[2:])


def imported_table(study: Study, fingerprints: Mapping[str, str | None]) -> tuple[pd.DataFrame, list[str]]:
    """Returns the scores of a study's imports, a row a side and metric, and a line for each that is left out.

    Args:
        study: The plan.
        fingerprints: What each data set's images are now.
    """
    rows, lines = [], []
    for dataset in study.datasets:
        places = sorted((study.root / FOLDER / dataset.name).glob("[!.]*/"))
        for folder in places:
            try:
                _check_name(folder.name, study)
                if broken := broken_files(folder):
                    raise UserError(f"{' and '.join(broken)} damaged; import it again.")
                made = read_record(folder / "provenance.json", _Made)
                metrics = read_record(folder / "metrics.json", _Sides)
                if made.data_fingerprint != fingerprints.get(dataset.name):
                    raise UserError(f"the images of {dataset.name} have changed since; import it again.")
            except UserError as error:
                lines.append(f"{folder} is left out: {error}")
                continue
            facts = {"source": made.source, "sha256": made.source_sha256, "imported": made.imported}
            rows += [
                {"dataset": dataset.name, "name": folder.name, "side": side, "metric": metric, "value": value, **facts}
                for side, summary in metrics.root.items()
                for metric, value in summary.items()
            ]
    return pd.DataFrame(rows, columns=list(IMPORT_COLUMNS)).astype({"value": "float64"}), lines
