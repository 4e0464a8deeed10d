"""What any trained model has to beat on a data set, and a sheet of its images.

Floors: a nearest neighbour on the camera-standardised colours of horizontal stripes, the untrained network, and the
pre-trained backbone before any fine-tuning. A baseline near them has learnt nothing that the study could compare.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from reidablate.artifacts import atomic_path, only_writer, sha256_file, write_record
from reidablate.data.cache import read_cache
from reidablate.data.index import read_index
from reidablate.data.stripes import standardise_by_camera, stripe_means
from reidablate.diagnostics.faces import blur_face
from reidablate.metrics.evaluate import score_side
from reidablate.metrics.protocol import Scores, score_distances
from reidablate.runs import NO_WEIGHTS
from reidablate.study import Study

SHEET = (4, 10)  # identities x images


def diagnose_dataset(study: Study, dataset: str) -> str:
    """Writes `floors.json` and `samples.jpg` of a data set and returns the line that sums them up.

    The two networks are scored only in a preset that pre-trains its own backbone, where it takes seconds.

    Raises:
        UserError: The data set has no index or cache yet.
    """
    folder = study.data_folder(dataset)
    out = folder / "diagnostics"
    index = read_index(folder / "index")
    frame = index.frame
    rows = [_row("colour stripes", _stripes(folder, frame), "nearest neighbour on 8 stripes, standardised by camera")]
    weights = study.weights if study.preset.weights == "pretrain" else None
    if study.preset.weights == "pretrain":
        rows.append(_row("untrained network", _network(study, folder, None), "initial weights of seed 0"))
        if weights is not None:
            rows.append(_row("pre-trained network", _network(study, folder, weights), "before any fine-tuning"))
    blur = study.settings.report.blur_faces and not index.summary["synthetic"]
    pids = frame.loc[frame["split"] == "train", "pid"].to_numpy()
    sheet = sample_sheet(read_cache(folder / "cache", "train"), pids, blur=blur)
    made_of = {
        "data_fingerprint": index.summary["fingerprint"],
        "weights_sha256": NO_WEIGHTS if weights is None else sha256_file(weights),
        "blurred": blur,
    }
    with only_writer(out, "diagnose"):
        with atomic_path(out / "samples.jpg") as temporary:
            temporary.write_bytes(sheet)
        write_record(out / "floors.json", {"floors": rows, **made_of}, ["samples.jpg"])
    return f"{dataset}: floors " + ", ".join(f"{row['method']} {100 * row['mAP']:.1f} mAP" for row in rows)


def _row(method: str, scores: Scores, note: str) -> dict[str, Any]:
    summary = scores.summary()
    return {"method": method, "mAP": summary["mAP"], "rank1": summary["rank1"], "note": note}


def _stripes(folder: Path, frame: pd.DataFrame) -> Scores:
    query, gallery = (frame[frame["split"] == split] for split in ("query", "gallery"))
    means = np.concatenate([stripe_means(read_cache(folder / "cache", split)) for split in ("query", "gallery")])
    features = standardise_by_camera(means, np.concatenate([query["camid"], gallery["camid"]]))
    left, right = features[: len(query)], features[len(query) :]
    distances = np.empty((len(left), len(right)), np.float32)
    for row, feature in enumerate(left):
        distances[row] = np.square(right - feature).sum(axis=1)
    return score_distances(
        distances,
        query_pids=query["pid"],
        gallery_pids=gallery["pid"],
        query_camids=query["camid"],
        gallery_camids=gallery["camid"],
    )


def _network(study: Study, folder: Path, weights: Path | None) -> Scores:
    import torch

    from reidablate.engine.extract import extract_features
    from reidablate.models.checkpoints import load_weights
    from reidablate.models.neck import ReidModel, initialise

    torch.set_num_threads(study.preset.execution.threads_here)
    config = study.pretrain_config()
    model = ReidModel(config.model, num_classes=2)
    initialise(model, seed=0)
    if weights:
        load_weights(model, weights, head=False)
    features = extract_features(model, folder, torch.device("cpu"))
    side = config.model.test_feature
    return score_side(features, side)


def sample_sheet(
    images: "np.ndarray[Any, np.dtype[np.uint8]]", pids: "np.ndarray[Any, Any]", *, blur: bool = False
) -> bytes:
    """Returns a JPEG with one row of training images for each of a few identities, spread over the set.

    Args:
        images: (N, H, W, 3).
        pids: (N,) identity of each image.
        blur: Whether faces are made unrecognisable; see `faces.blur_face`.
    """
    num_ids, num_images = SHEET
    names = np.unique(pids)
    chosen = names[np.linspace(0, len(names) - 1, min(num_ids, len(names))).astype(int)]
    height, width = images.shape[1:3]
    sheet = np.full((len(chosen) * (height + 4), num_images * (width + 4), 3), 255, np.uint8)
    for row, pid in enumerate(chosen):
        for column, image in enumerate(np.flatnonzero(pids == pid)[:num_images]):
            top, left = row * (height + 4) + 2, column * (width + 4) + 2
            shown = blur_face(images[image]) if blur else images[image]
            sheet[top : top + height, left : left + width] = shown
    stream = io.BytesIO()
    Image.fromarray(sheet).save(stream, "JPEG", quality=85)
    return stream.getvalue()
