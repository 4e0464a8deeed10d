"""A fine-tuned weight file on a data set of the study, without training: features as a run extracts them."""

import sys
from pathlib import Path
from typing import Any, Literal

from reidablate.artifacts import write_npz
from reidablate.config import PATCH_PX, ModelConfig
from reidablate.data.cache import build_cache
from reidablate.data.formats import SYNTHETIC_FILE
from reidablate.data.index import index_dataset, read_index
from reidablate.engine.devices import lease
from reidablate.engine.extract import Features, extract_features
from reidablate.engine.progress import CountBar
from reidablate.engine.spec import be_deterministic, torch_device
from reidablate.errors import UserError
from reidablate.models.checkpoints import LoadReport, check_fit, load_weights, read_weights
from reidablate.models.neck import ReidModel
from reidablate.models.weight_names import UNUSED
from reidablate.planned import PlannedDataset
from reidablate.provenance import usable_cores
from reidablate.smoke import MARK
from reidablate.study import Study

_INDEX_THREADS = 2
Device = Literal["auto", "cpu", "cuda"]


def try_weights(
    study: Study,
    weights: Path,
    out: Path,
    *,
    dataset: str,
    cell: str | None = None,
    device: Device = "auto",
    hw_ratio: float | None = None,
) -> list[str]:
    """Writes the features of a weight file on a data set, an `.npz` that `import` takes, and returns lines about them.

    Images, size, network and threads are those of the study's runs, so a run's own weights give its own features bit
    for bit. A file without a BNNeck has no feature after it. Index and cache are built where a run would look for them.

    Args:
        study: The plan; nothing of it is trained.
        weights: A file that `load_weights` reads.
        out: The `.npz` to write.
        dataset: A data set of the plan.
        cell: Whose model is built; None for the preset's.
        device: Where features are computed.
        hw_ratio: Rows per column of the file's position rows; None infers it.

    Raises:
        UserError: The file does not fit the model, or the data set is not there or not a good one.
    """
    run = study.cell(cell).config if cell else study.base_config()
    config = run.model
    chosen = study.dataset(dataset)
    cameras = _cameras(study, chosen) if config.parts.read_cameras else ()
    model, report = _loaded(weights, config, hw_ratio, cameras)
    summary = prepare(study, chosen)
    with lease(0 if device == "cpu" else 1, device=device) as leased:
        place = torch_device(device, leased)
        print(f"{weights.name} on {dataset}: on {place.type}", file=sys.stderr, flush=True)
        be_deterministic(study.preset.execution.threads_here)
        workers = min(study.preset.execution.workers, usable_cores())
        with CountBar(f"{weights.name} on {dataset}") as bar:
            features = extract_features(
                model.to(place),
                study.data_folder(dataset),
                place,
                workers=workers,
                precision=run.train.precision,
                progress=bar.show,
            )
    write_npz(out, features if report.has_neck else _before_neck(features))
    smoke = [MARK] if study.preset.sample is not None else []
    return [*smoke, *_lines(chosen, summary, config, report, out)]


def prepare(study: Study, dataset: PlannedDataset) -> dict[str, Any]:
    """Returns the summary of a data set's index, after building what is not there: images if drawn, index, cache.

    Raises:
        UserError: The data set is not a good one, or the results folder cannot be written.
    """
    folder, workers = study.data_folder(dataset.name), usable_cores()
    if dataset.generated and not (dataset.root / SYNTHETIC_FILE).is_file():
        from reidablate.synthetic.synthesize import synthesize_recipe

        assert study.preset.synthetic is not None
        synthesize_recipe(dataset.root, study.preset.synthetic[dataset.name], workers=workers)
    if (folder / "index" / "index.json").is_file():
        study.model_copy(update={"datasets": [dataset]}).reindex_changed()
    else:
        sample = study.preset.sample
        index_dataset(dataset.root, dataset.layout, folder / "index", workers=_INDEX_THREADS, sample=sample)
    index = read_index(folder / "index")
    height, width = study.preset.model["image_size"]
    build_cache(index, dataset.root, folder / "cache", height=height, width=width, workers=workers)
    return index.summary


def _cameras(study: Study, dataset: PlannedDataset) -> tuple[int, ...]:
    """Returns the cameras of the training images of a data set, which is indexed if it is not yet."""
    prepare(study, dataset)
    frame = read_index(study.data_folder(dataset.name) / "index").frame
    return tuple(sorted(map(int, frame.loc[frame["split"] == "train", "camid"].unique())))


def _loaded(
    weights: Path, config: ModelConfig, hw_ratio: float | None, cameras: tuple[int, ...]
) -> tuple[ReidModel, LoadReport]:
    """Returns the model with the weights of a file, which must be whole but for neck and classifier."""
    if config.backbone not in PATCH_PX:
        model = ReidModel(config, num_classes=1)
        report = load_weights(model, weights)
        _refuse(weights, [], [name for name in report.missing if _is_tested(name)])
        return model, report
    file = read_weights(weights)
    model = ReidModel(config, num_classes=file.num_classes or 1, cameras=cameras)
    report, values = check_fit(model, file, hw_ratio=hw_ratio)
    lost = [name for name in report.ignored if _changes_features(name, model)]
    _refuse(weights, lost, [name for name in report.missing if name.startswith("backbone.") or _is_tested(name)])
    model.load_state_dict(values, strict=False)
    return model, report


def _changes_features(name: str, model: ReidModel) -> bool:
    """Returns whether what a file has under this name, and a model does not take, makes its features other ones.

    The branches of a jigsaw module may be left out as a whole, but not in part.
    """
    if UNUSED.match(name):
        return model.local_features is not None and name.startswith("bottleneck_")
    return any(word in name for word in (".attn.", ".parts.", "local_features."))


def _is_tested(name: str) -> bool:
    """Returns whether a tensor belongs to local features, and not to their classifiers, which nobody tests."""
    return name.startswith("local_features.") and "classifier" not in name


def _refuse(weights: Path, lost: list[str], lacking: list[str]) -> None:
    """Raises a UserError if a file has what a model lacks, or the other way round."""
    if lost or lacking:
        what = f"has {lost[0]}, which the model lacks" if lost else f"lacks {lacking[0]}, which the model has"
        raise UserError(f"{weights} {what}; name the cell that it was trained as with --cell.")


def _before_neck(features: Features) -> Features:
    return {name: array for name, array in features.items() if not name.endswith("_after_neck")}


def _lines(
    dataset: PlannedDataset, summary: dict[str, Any], config: ModelConfig, report: LoadReport, out: Path
) -> list[str]:
    """Returns what a reader must know about the scores beside them."""
    height, width = config.image_size
    lines = [
        f"{dataset.title}, images {height} x {width}, {config.backbone} with stem {config.stem}",
        f"the feature of the study: {config.test_feature}",
    ]
    if summary["synthetic"]:
        lines.append("SYNTHETIC images: the scores say nothing about the published study")
    elif not summary["official_counts"]:
        lines.append("the data set does not have its official counts")
    if not report.has_neck:
        lines.append("the file has no BNNeck, so there is no feature after it")
    lines += [f"note: {note}" for note in report.notes]
    return [*lines, f"features: {out}"]
