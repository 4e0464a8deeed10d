"""What of a study is finished and is still what the plan says: the one place that decides what must run again.

It is decided by content (configuration, images, initial weights, seed, version of the code and of the scores), never
by file times, by the spelling of a path or by what Snakemake recorded. Planning asks here which jobs there are, and
the tables ask here which runs they show, so the two cannot disagree.
"""

from collections.abc import Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from reidablate.artifacts import content_hash, read_json, read_record, read_table
from reidablate.config import RunConfig
from reidablate.data.cache import differs_from
from reidablate.data.formats import SYNTHETIC_FILE
from reidablate.data.index import read_summary
from reidablate.errors import UserError
from reidablate.freezing import FILE as FROZEN
from reidablate.integrity import Digests, broken_files, is_made_of
from reidablate.keeping import removed
from reidablate.needs import Needs
from reidablate.provenance import versions
from reidablate.runs import (
    EXTERNAL_FILES,
    NO_WEIGHTS,
    SCORE_FILES,
    SCORES_VERSION,
    TRAINED_FILES,
    Floors,
    Identity,
    Metrics,
    Provenance,
    differs,
    is_fitted,
)
from reidablate.study import PRETRAIN, Run, Study, Transfer

TABLES = (
    "runs.parquet",
    "metrics.parquet",
    "queries.parquet",
    "history.parquet",
    "floors.parquet",
    "camera_pairs.parquet",
    "cross_domain.parquet",
    "imported.parquet",
    "tuning.parquet",
    "cells.json",
    "study.json",
)
"""What `aggregate` writes below `tables/`."""


class Standing:
    """The state of a study's files; every file is looked at once."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.summary = cache(self._summary)
        self.unindexed = cache(self._unindexed)
        self.untrained = cache(self._untrained)
        self.unscored = cache(self._unscored)
        self.untransferred = cache(self._untransferred)
        self.damaged: dict[str, str] = {}  # names of broken files by folder
        self._digests = Digests(study.root / "checksums.json")
        self._broken = cache(self._look_for_broken)

    def undrawn(self, dataset: str) -> bool:
        """Returns whether the images of a generated set are still to be drawn, by the recipe of the preset."""
        planned = self.study.dataset(dataset)
        return planned.generated and not _drawn_by(self.study.synthetic_recipe(dataset), planned.root / SYNTHETIC_FILE)

    def _summary(self, dataset: str) -> dict[str, Any]:
        """Returns the summary of a data set's index, empty where there is none."""
        try:
            return read_summary(self.study.data_folder(dataset) / "index")
        except UserError:
            return {}

    def _unindexed(self, dataset: str) -> bool:
        """Whether a data set has no index of the images that the plan names."""
        mark = self.study.dataset(dataset).root / SYNTHETIC_FILE
        redrawn = mark.is_file() and self.undrawn(dataset)
        folder = self.study.data_folder(dataset) / "index"
        whole = is_parquet(folder / "index.parquet") and bool(self.summary(dataset))
        drawn_since = self.study.dataset(dataset).generated and not self.summary(dataset).get("synthetic", True)
        return redrawn or drawn_since or not whole or bool(self._broken(folder))

    def uncached(self, dataset: str) -> bool:
        """Returns whether a data set has no cache of its index at the preset's image size."""
        if self.unindexed(dataset):
            return True
        height, width = self.study.preset.model["image_size"]
        fingerprint, folder = self.summary(dataset)["fingerprint"], self.study.data_folder(dataset) / "cache"
        return differs_from(folder, fingerprint, height=height, width=width) or bool(self._broken(folder))

    def fingerprint(self, dataset: str) -> str | None:
        """Returns the fingerprint of a data set's images, None while it has no index."""
        return None if self.unindexed(dataset) else str(self.summary(dataset)["fingerprint"])

    @cached_property
    def unpretrained(self) -> bool:
        """Whether the preset's own backbone is not there, or not the one that the plan names."""
        folder = self.study.root / PRETRAIN
        whole = (folder / "model.safetensors").is_file() and "model.safetensors" not in self._broken(folder)
        return self.study.pretrains and not (self._pretrained and whole)

    @cached_property
    def _pretrained(self) -> Provenance | None:
        """What is recorded of the preset's own backbone, if it is the planned one; its file may be gone."""
        folder = self.study.root / PRETRAIN
        try:
            made = read_record(folder / "provenance.json", Provenance)
        except UserError:
            return None
        planned = Identity(
            configuration=self.study.pretrain_config().hash,
            data=self.fingerprint(PRETRAIN) or made.data_fingerprint,
            weights=NO_WEIGHTS,
            seed=0,
        )
        gone = ("model.safetensors", "history.parquet")
        return None if differs(folder, planned, features=False, same_code=self._same_code, removed=gone) else made

    def weights(self, config: RunConfig) -> str | None:
        """Returns the SHA-256 of a run's initial weights, None while they are not there."""
        path = self.study.weights_of(config)
        if path is None:
            return NO_WEIGHTS
        if self.study.pretrains and path.parent == self.study.root / PRETRAIN:
            return self._pretrained.sha256.get(path.name) if self._pretrained else None
        return self._digests.of(path) if path.is_file() else None

    def _look_for_broken(self, folder: Path) -> list[str]:
        found = broken_files(folder, self._digests)
        if found:
            self.damaged[folder.relative_to(self.study.root).as_posix()] = " and ".join(found)
        return found

    @property
    def _same_code(self) -> bool:
        return self.study.settings.retrain == "code"

    def _identity(self, run: Run) -> Identity | str:
        """What a run is to be; while that cannot be told, what is not there."""
        cell = self.study.cell(run.cell)
        data = self.fingerprint(run.dataset)
        weights = NO_WEIGHTS if cell.external else self.weights(cell.config_on(run.dataset))
        if data is None or weights is None:
            return "images" if data is None else "initial weights"
        return Identity(configuration=cell.identity_on(run.dataset), data=data, weights=weights, seed=run.seed)

    def _own_metrics(self, folder: Path) -> dict[str, str | None] | None:
        """Returns what the metrics of the study's own are made of; None where they cannot be computed any more."""
        gone = "features.npz" in removed(folder)
        return None if gone else {metric.name: metric.code for metric in self.study.metrics}

    def _untrained(self, run: Run) -> str:
        """Returns why a run does not stand as trained, as a phrase; empty when it does."""
        folder = self.study.root / run.id
        if not self._is_recorded(run):
            return "not trained yet"
        planned = self._identity(run)
        if isinstance(planned, str):
            return f"the {planned} it was made from are not there"
        gone = removed(folder)
        if "features.npz" in gone and unscored(folder):
            return "its features were removed, so it cannot be scored again"
        cell = self.study.cell(run.cell)
        without = gone | set(TRAINED_FILES) - set(EXTERNAL_FILES) if cell.external else gone
        reason = differs(folder, planned, same_code=self._same_code and not cell.external, removed=without)
        broken = [] if reason else [name for name in self._broken(folder) if name in TRAINED_FILES]
        return _damaged(broken) or reason

    def _is_recorded(self, run: Run) -> bool:
        """Whether there is a record of a finished run, be it the planned one or not."""
        return (self.study.root / run.id / "provenance.json").is_file()

    def _is_fitted(self, run: Run) -> bool:
        """Whether a run stands as trained, but perhaps for its features, which its weights give."""
        folder, planned = self.study.root / run.id, self._identity(run)
        return isinstance(planned, Identity) and is_fitted(
            folder, planned, broken=self._broken(folder), same_code=self._same_code
        )

    def _unscored(self, run: Run | Transfer) -> str:
        """Returns why a run does not stand as trained and scored, as a phrase; empty when it does."""
        folder = self.study.root / run.id
        if reason := self._unextracted(run) or unscored(folder, self._own_metrics(folder)):
            return reason
        broken = [name for name in self._broken(folder) if name in SCORE_FILES]
        return _damaged(broken)

    def _untransferred(self, transfer: Transfer) -> str:
        """Returns why the features of a run on another data set do not stand, as a phrase; empty when they do."""
        folder = self.study.root / transfer.id
        if (reason := self.untrained(transfer.run)) and not self._is_fitted(transfer.run):
            return reason
        if not all((folder / name).is_file() for name in {"features.npz", "provenance.json"} - removed(folder)):
            return "not extracted yet"
        try:
            run = read_record(self.study.root / transfer.run.id / "provenance.json", Provenance)
            made = read_record(folder / "provenance.json", Provenance)
            same = made.identity(folder / "provenance.json") == run.identity(folder / "provenance.json")
        except UserError as error:
            return str(error)
        there = made.transfer
        wrong = [
            what
            for what, differs in (
                ("configuration", not same),
                ("weights", there is None or there.weights_sha256 != run.sha256.get("model.safetensors")),
                ("data", there is None or there.data_fingerprint != self.fingerprint(transfer.on)),
            )
            if differs
        ]
        broken = [name for name in self._broken(folder) if name in TRAINED_FILES]
        return f"made with another {' and '.join(wrong)}" if wrong else _damaged(broken)

    @property
    def to_score_again(self) -> list[Run]:
        """Runs that the tables show as finished and that lack nothing but scores: gathered now, they were missing."""
        try:
            table = read_table(self.study.root / "tables" / "runs.parquet")
        except (UserError, OSError):
            return []
        finished = table[table["status"] == "finished"] if "status" in table else table[:0]
        shown = {f"{row.dataset}/{row.cell}/seed{row.seed}" for row in finished.itertuples()}
        return [r for r in self.study.runs if r.id in shown and self.unscored(r) and not self.untrained(r)]

    @property
    def needs(self) -> Needs:
        """What has to be made."""
        study, asked = self.study, set(self.study.asked_runs)
        sets = [dataset.name for dataset in [*study.datasets, *study.test_only]] + [PRETRAIN] * study.pretrains
        runs: list[Run | Transfer] = [*study.runs, *study.transfers]
        tables, report = study.root / "tables", study.root / "report"
        both = [tables / "study.json", tables / "statistics.json"]
        parts = [study.data_folder(name) / part for name in sets for part in ("index", "cache", "diagnostics")]
        for folder in [*parts, study.root / PRETRAIN, *(study.root / run.id for run in runs), tables, report]:
            self._broken(folder)  # all of them are named, whatever else is wrong with what is in them
        transfer = {t: None for t in study.transfers if t.run in asked and self.untransferred(t)}
        weightless = {t.run for t in transfer if "model.safetensors" in removed(study.root / t.run.id)}
        train = {run: None for run in study.asked_runs if self.untrained(run) or run in weightless}
        unscored = [run for run in runs if self.unscored(run)]
        caches = [name for name in sets if self.uncached(name)]
        found = Needs(
            datasets=[name for name in sets if self.undrawn(name)],
            indexes=[name for name in sets if self.unindexed(name)],
            caches=caches,
            pretrain=self.unpretrained,
            train=list(train),
            extract=[run for run in train if run not in weightless and self._is_fitted(run)],
            unsure=[run for run in train if isinstance(self._identity(run), str) and self._is_recorded(run)],
            transfer=list(transfer),
            evaluate=[run for run in unscored if run in train or run in transfer or not self._unextracted(run)],
            stands=set(runs) - set(unscored),
            floors=[dataset.name for dataset in study.datasets if self._unmeasured(dataset.name)],
            tables=self._untabled,
            statistics=not is_made_of(tables / "statistics.json", [tables / "study.json"]),
            report=bool(self._broken(report)) or not is_made_of(report / "report.json", both),
            damaged=[_in_words(folder, names) for folder, names in self.damaged.items()],
        )
        self._digests.save()
        return found

    def _unextracted(self, run: Run | Transfer) -> str:
        return self.untransferred(run) if isinstance(run, Transfer) else self.untrained(run)

    def _unmeasured(self, dataset: str) -> bool:
        folder = self.study.data_folder(dataset) / "diagnostics"
        gone = not ((folder / "floors.json").is_file() and (folder / "samples.jpg").is_file())
        if gone or self._broken(folder) or self.unindexed(dataset):
            return True
        try:
            made = read_record(folder / "floors.json", Floors)
        except UserError:
            return True
        other_images = (folder.parent / "cache" / "cache.json").is_file() and self.uncached(dataset)
        blur = self.study.settings.report.blur_faces and not self.summary(dataset)["synthetic"]
        return other_images or made.blurred != blur or made.data_fingerprint not in (None, self.fingerprint(dataset))

    @property
    def _untabled(self) -> bool:
        tables = self.study.root / "tables"
        if self._broken(tables):
            return True
        try:
            made_of = read_json(tables / "study.json").get("made_of")
        except (UserError, AttributeError):
            return True
        return made_of != self.signature or not all((tables / name).is_file() for name in TABLES)

    @property
    def signature(self) -> str:
        """Sixteen hexadecimal digits that change with anything that the tables show."""
        study = self.study
        runs: list[Run | Transfer] = [*study.runs, *study.transfers]
        folders = {run.id: self.unscored(run) for run in runs}
        imported = sorted((study.root / "imported").glob("*/[!.]*/provenance.json"))
        return content_hash(
            {
                "version": versions().get("reidablate"),
                "cells": [cell.model_dump(mode="json") for cell in study.cells],
                "datasets": [
                    [dataset.model_dump(mode="json", exclude={"root"}), self.fingerprint(dataset.name)]
                    for dataset in [*study.datasets, *study.test_only]
                ],
                "palette": study.palette,
                "runs": {id: reason or _scores_of(study.root / id) for id, reason in folders.items()},
                **({"frozen": _text(study.root / FROZEN)} if (study.root / FROZEN).exists() else {}),
                "imported": [[path.parent.name, _text(path), self._broken(path.parent)] for path in imported],
            }
        )


def _in_words(folder: str, names: str) -> str:
    done = "left out until it is imported again" if folder.startswith("imported/") else "what is needed is made again"
    return f"{folder}: {names} damaged; {done}"


def _damaged(names: list[str]) -> str:
    return f"{' and '.join(names)} damaged" if names else ""


def unscored(folder: Path, own_metrics: Mapping[str, str | None] | None = None) -> str:
    """Returns why the features in a folder are not scored by the present protocol; empty when they are.

    What the metrics of the study's own are made of belongs to it, where it is given.
    """
    if gone := [name for name in SCORE_FILES if not (folder / name).is_file()]:
        return "not scored yet" if len(gone) == len(SCORE_FILES) else f"{' and '.join(gone)} missing"
    try:
        metrics = read_record(folder / "metrics.json", Metrics)
        made = read_record(folder / "provenance.json", Provenance)
    except UserError as error:
        return str(error)
    if broken := [name for name in SCORE_FILES if name.endswith(".parquet") and not is_parquet(folder / name)]:
        return f"{' and '.join(broken)} truncated"
    if metrics.scores_version != SCORES_VERSION:
        return "scored by another version of the protocol"
    if own_metrics is not None and metrics.own_metrics != own_metrics:
        return "scored by other metrics of the study's own"
    features = made.sha256.get("features.npz") if made.status == "finished" else None
    return "scored with another features.npz" if metrics.features_sha256 != features else ""


def is_parquet(path: Path) -> bool:
    """Returns whether a file ends as a Parquet file does; one that was cut short does not."""
    try:
        with path.open("rb") as stream:
            stream.seek(-4, 2)
            return stream.read() == b"PAR1"
    except OSError:
        return False


def _scores_of(folder: Path) -> str:
    return content_hash([_text(folder / name) for name in ("provenance.json", "metrics.json")])


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="backslashreplace")


def _drawn_by(recipe: Mapping[str, Any], mark: Path) -> bool:
    """Whether the mark of a generated set names a recipe; it holds a line `key: value` for each of its parts."""
    try:
        lines = mark.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return False
    drawn = dict(line.split(": ", 1) for line in lines if ": " in line)
    size = tuple(recipe["image_size"])
    wanted = {"style": recipe["style"], "seed": recipe["seed"], "image_size": size, **recipe["counts"]}
    if "occluded_share" in drawn:
        wanted["occluded_share"] = recipe["occluded_share"]
    return all(drawn.get(key) == str(value) for key, value in wanted.items())
