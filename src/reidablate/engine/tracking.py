"""Weights & Biases when asked for, and never the cause of a failed training.

A run is sent from what it has on disk, so that a live one, a finished one and one that is pushed later look the same:
every step of its history with the means of each epoch, then the scores of both sides of the neck. What is there already
is not sent twice. Online, a training sends each epoch as it ends. Offline, the run is written once, when it is scored:
two files of one run would overwrite each other when they are synchronised.
"""

import os
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from reidablate.artifacts import read_json
from reidablate.errors import UserError, reason
from reidablate.provenance import SCIENCE_VERSION, code_hash
from reidablate.runs import Identity, Provenance

if TYPE_CHECKING:
    from reidablate.engine.spec import RunSpec

Mode = Literal["disabled", "offline", "online"]
PROJECT = "reidablate"
FOLDER = "wandb"  # below results/<preset>
_STUDY = "wandb.json"
_IMAGES = (".png", ".jpg", ".jpeg")
_START_S = 20


@dataclass(frozen=True, kw_only=True)
class Card:
    """What Weights & Biases knows of a run before its first value.

    Attributes:
        results: The folder `results/<preset>`.
        config: The configuration in full.
        config_hash: Its hash; an edited cell is another run.
        data: Fingerprint of the images.
        weights: SHA-256 of the initial weights.
        code: Hash of the code.
    """

    results: Path
    dataset: str
    cell: str
    seed: int
    config: Mapping[str, Any]
    config_hash: str
    data: str
    weights: str | None
    code: str | None
    science_version: int = SCIENCE_VERSION
    synthetic: bool | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The arguments of `wandb.init`."""
        study, preset = study_id(self.results), self.results.absolute().name
        name = f"{self.dataset}/{self.cell}/seed{self.seed}"
        facts = {
            "study": study,
            "preset": preset,
            "dataset": self.dataset,
            "cell": self.cell,
            "seed": self.seed,
            "config_hash": self.config_hash,
            "data_fingerprint": self.data,
            "weights_sha256": self.weights,
            "code_hash": self.code,
            "science_version": self.science_version,
        }
        tags = [preset, self.dataset, self.cell[:64], *(["synthetic"] if self.synthetic else [])]
        return {
            "id": "-".join([study, self.dataset, self.cell[:40], f"seed{self.seed}", self.config_hash, self.data[:8]]),
            "name": name,
            "group": self.cell,
            "job_type": "train",
            "config": {**self.config, **facts},
            "tags": tags,
        }


def card_of_training(spec: "RunSpec", planned: Identity, *, synthetic: bool) -> Card:
    """Returns the card of a run that is being trained."""
    return Card(
        results=spec.out.parent.parent.parent,
        dataset=spec.dataset,
        cell=spec.cell,
        seed=spec.seed,
        config=spec.config.dump(),
        config_hash=planned.configuration,
        data=planned.data,
        weights=planned.weights,
        code=code_hash(),
        synthetic=synthetic,
    )


def card_of_run(results: Path, made: Provenance) -> Card:
    """Returns the card of a finished run."""
    return Card(
        results=results,
        dataset=made.dataset,
        cell=made.cell,
        seed=made.seed,
        config=made.config,
        config_hash=made.config_hash,
        data=made.data_fingerprint,
        weights=made.weights_sha256,
        code=made.code_hash,
        science_version=made.science_version,
        synthetic=made.synthetic,
    )


def study_id(results: Path) -> str:
    """Returns the name of a study that no other has, made up at the first call and kept beside its results."""
    path = results / _STUDY
    made_up = f"{results.absolute().name}-{uuid.uuid4().hex[:8]}"
    with suppress(FileExistsError):  # the first of several processes decides
        results.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".tmp-{made_up}")
        temporary.write_text(f'{{"study": "{made_up}"}}\n', encoding="utf-8")
        try:
            os.link(temporary, path)
        finally:
            temporary.unlink()
    return str(read_json(path)["study"])


class Tracker:
    """One run in Weights & Biases; with mode `disabled` it does nothing and imports nothing."""

    def __init__(self, mode: Mode, results: Path, **options: Any) -> None:
        """Begins the run, or goes on with it.

        Args:
            mode: `WANDB_MODE=disabled` in the environment turns any into `disabled`.
            results: The folder `results/<preset>`.
            options: Of `wandb.init`.

        Raises:
            UserError: It cannot be begun.
        """
        self._run: Any = None
        self._sent = 0
        if mode == "disabled" or os.environ.get("WANDB_MODE") == "disabled":
            return
        try:
            wandb = _wandb()
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", PROJECT),
                dir=results,
                mode=mode,
                resume="allow" if mode == "online" else None,
                settings=wandb.Settings(init_timeout=_START_S, console="off"),
                **options,
            )
            self._sent = int(self._run.starting_step)
        except Exception as error:
            raise UserError(f"Weights & Biases does not work: {reason(error)}; see `wandb login`.") from None

    def history(self, columns: Mapping[str, Any]) -> None:
        """Sends every step that was not sent yet, with the means of an epoch at its last step.

        Args:
            columns: The history of a training, a value for each step; `epoch` counts from 0.
        """
        if self._run is None or "epoch" not in columns:
            return
        values = {name: np.asarray(column, np.float64) for name, column in columns.items()}
        epochs = values["epoch"]
        for step in range(self._sent, len(epochs)):
            row = {name: float(column[step]) for name, column in values.items()}
            if step + 1 == len(epochs) or epochs[step + 1] != epochs[step]:
                whole = epochs == epochs[step]
                row |= {f"epoch_mean/{name}": float(c[whole].mean()) for name, c in values.items() if name != "epoch"}
            self._run.log(row, step=step)
        self._sent = max(self._sent, len(epochs))

    def summary(self, values: Mapping[str, Any]) -> None:
        """Sends what stands at the end."""
        if self._run is not None:
            self._run.summary.update(dict(values))

    def images(self, folder: Path) -> None:
        """Sends every image below a folder, and every page with its own, under its relative name, in that order."""
        if self._run is None:
            return
        paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _IMAGES)
        if paths:
            names = [path.relative_to(folder).with_suffix("").as_posix() for path in paths]
            images = [_wandb().Image(str(path)) for path in paths]
            self._run.log({f"diagnostics/{name}": image for name, image in zip(names, images, strict=True)})
        for page in sorted(folder.rglob("*.html")):
            name = page.relative_to(folder).with_suffix("").as_posix()
            self._run.log({f"pages/{name}": _wandb().Html(page.read_text(encoding="utf-8"), inject=False)})

    def finish(self) -> None:
        """Closes the run."""
        if self._run is not None:
            self._run.finish()


def _wandb() -> Any:
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb

    return wandb


def login_problem() -> str:
    """Returns why nothing can be sent, in one sentence; empty when the server takes the key of this machine."""
    try:
        if _wandb().login(verify=True, prompt=False):
            return ""
        problem = "there is no API key; give one with `wandb login` or WANDB_API_KEY"
    except Exception as error:
        problem = reason(error).rstrip(".")
    return f"Weights & Biases: {problem}. Nothing is sent; `reidablate wandb push` sends the study later."


class LiveTracker:
    """The tracker of a training that is under way: online only, and it gives up instead of failing."""

    def __init__(self, mode: Mode, card: Card) -> None:
        self._tracker: Tracker | None = None
        with self._or_give_up():
            if mode == "online":
                self._tracker = Tracker(mode, card.results, **card.options)

    def history(self, columns: Mapping[str, Any]) -> None:
        """Sends the steps that were not sent yet."""
        with self._or_give_up():
            if self._tracker is not None:
                self._tracker.history(columns)

    def finish(self) -> None:
        """Closes the run; its scores are still to come."""
        with self._or_give_up():
            if self._tracker is not None:
                self._tracker.finish()

    @contextmanager
    def _or_give_up(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._tracker = None
            print(f"Weights & Biases is off for this training: {reason(error)}", file=sys.stderr, flush=True)
