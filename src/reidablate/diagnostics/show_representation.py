"""Sections about representations: blocks, cells and networks against each other, skips, probes, the plane.

Legend: N images, L blocks, T tokens, D width.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from reidablate.diagnostics import charts
from reidablate.diagnostics.embedding import NEEDS, tsne
from reidablate.diagnostics.look import Look, Section, aside
from reidablate.diagnostics.network import Trace, TransformerParts, traced, without_skips
from reidablate.diagnostics.pictures import captioned, element, heat, scale, strip
from reidablate.diagnostics.probes import probe_lines, probe_map
from reidablate.diagnostics.receptive_field import area_share, effective_receptive_field
from reidablate.diagnostics.representation import cka_matrix, cosine_rows, input_similarity, linear_cka, skip_ratios
from reidablate.diagnostics.subject import BATCH, Subject
from reidablate.diagnostics.transforms import SCALES, SHIFTS, rescale, shift
from reidablate.metrics.protocol import score
from reidablate.report.records import fixed

TSNE_IDS, TSNE_IMAGES = 20, 8


def trace_of(subject: Subject, parts: TransformerParts, images: Tensor) -> Trace:
    """Returns the trace of images (N, 3, H, W), without gradients."""
    with torch.no_grad(), traced(parts) as trace:
        subject.model(images)
    return trace


def stages(subject: Subject, images: Tensor) -> dict[str, Tensor]:
    """Returns what the parts of a network make of images, a mean over places (N, D) each, by the part's name."""
    if isinstance(subject.parts, TransformerParts):
        tokens = trace_of(subject, subject.parts, images).tokens
        return {f"block {b}" if b else "input": x[:, subject.parts.num_prefix :].mean(1) for b, x in enumerate(tokens)}
    net = getattr(subject.model.backbone, "net", subject.model.backbone)
    found: dict[str, Tensor] = {}
    handles = [
        getattr(net, name).register_forward_hook(
            lambda module, inputs, output, name=name: found.update({name: output.mean((2, 3))})
        )
        for name in ("layer1", "layer2", "layer3", "layer4")
        if hasattr(net, name)
    ]
    try:
        with torch.no_grad():
            outputs = subject.model(images)
    finally:
        for handle in handles:
            handle.remove()
    return found or {"feature": outputs.feature_before_neck}


def similarity(look: Look) -> Section:
    """Returns CKA of the parts of the network with each other, with the reference, and with other kinds of network."""
    subject = look.subject
    images = subject.inputs("query", subject.sample("query", look.amount.images))
    own = stages(subject, images)
    compared = [subject, *([look.reference] if look.reference else []), *look.others]
    tiles = []
    for other in compared:
        theirs = stages(other, images)
        matrix = cka_matrix(list(own.values()), list(theirs.values())).numpy()
        words = "itself" if other is subject else other.run.cell
        tiles.append(_matrix(matrix, list(own), list(theirs), f"{subject.run.cell} (rows) and {words} (columns)"))
    how = (
        f"Linear CKA over {len(images)} queries, of the means over places: 1 is the same up to rotation, 0 unrelated; "
        f"over few images it comes out too high. Pale fields between early and late parts mean that much changes on "
        f"the way; a cell whose diagonal with its reference is 1 represents images as the reference does."
    )
    return Section("cka", "Representations against each other", how, tiles)


def _matrix(values: npt.NDArray[np.float64], rows: Sequence[str], columns: Sequence[str], caption: str) -> str:
    head = "".join(f'<th scope="col" class="n">{name}</th>' for name in columns)
    body = "".join(
        f'<tr><th scope="row">{name}</th>'
        + "".join(f'<td class="n" style="--v:{max(0.0, v):.2f}">{v:.2f}</td>' for v in row)
        + "</tr>"
        for name, row in zip(rows, values, strict=True)
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{caption}"><table class="matrix">'
        f"<caption><span>{caption}</span></caption><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def skips(look: Look) -> Section:
    """Returns what skips carry, what is left of a place's own input, and in full what happens without each skip."""
    how = (
        "Above 1 (dashed) the skip connection carries more than attention or MLP, which it goes around, adds. The "
        "cosine tells how much of a patch's input is left at its own place after each block: 1 all, 0 nothing."
    )
    subject, parts = look.subject, look.subject.parts
    if isinstance(parts, str):
        return Section("skips", "Skip connections", how, [aside(parts)])
    images = subject.inputs("query", subject.sample("query", look.amount.images))
    trace = trace_of(subject, parts, images)
    ratios = skip_ratios(trace.skips, trace.branches, num_prefix=parts.num_prefix)
    names = [f"{part}{b + 1}" for b in range(len(parts.blocks)) for part in ("att", "mlp")]
    curves = {"patches": ratios[:, 1].tolist()}
    if parts.num_prefix:
        curves = {"CLS" if parts.has_cls else "first token": ratios[:, 0].tolist()} | curves
    labels = names if len(names) <= 12 else [n if k % 4 == 0 else "" for k, n in enumerate(names)]
    ratio = charts.lines(
        "skips", "Length of the skip over that of what is added", curves, x_label="part of block", y_label="ratio",
        ticks=labels, zero=True, level=1.0,
    )  # fmt: skip
    kept = input_similarity(trace.tokens, num_prefix=parts.num_prefix).tolist()
    left = charts.lines(
        "input", "Cosine of each patch with its own input", {"patches": kept}, x_label="after block", y_label="cosine"
    )
    found = [ratio, left]
    if look.amount.full:
        found.append(_removal(subject, parts, images, trace))
    return Section("skips", "Skip connections", how, found)


def _removal(subject: Subject, parts: TransformerParts, images: Tensor, trace: Trace) -> str:
    values = []
    for block in parts.blocks:
        with without_skips(block):
            cut = trace_of(subject, parts, images).tokens[-1]
        values.append(linear_cka(trace.tokens[-1].flatten(0, 1), cut.flatten(0, 1)))
    title = "CKA of the last block with and without one block's skips"
    places = list(range(1, len(values) + 1))
    return charts.lines("removal", title, {"tokens": values}, x=places, x_label="block", y_label="CKA", zero=True)


def receptive_field(look: Look) -> Section:
    """Returns the effective receptive field of the central patch after the whole network."""
    subject = look.subject
    how = (
        "The brighter a pixel, the more it changes the last token of the central patch, on average over some queries: "
        "one bright spot is a patch that keeps to itself, an even map one that sees the whole image."
    )
    model = subject.model
    images = subject.inputs("query", subject.sample("query", min(8, look.amount.images)))
    rows, cols = model.backbone.grid

    def tokens_of(inputs: Tensor) -> Tensor:
        patches: Tensor = model.backbone(inputs).patches
        return patches

    with torch.no_grad():
        if model.backbone(images[:1]).patches is None:
            return Section("field", "What the central patch sees", how, [aside("The backbone gives no patches.")])
    field = effective_receptive_field(tokens_of, images, rows // 2 * cols + cols // 2)
    words = f"95 % of the gradient lies in {100 * area_share(field):.0f} % of the image"
    picture = element(heat(field.sqrt().numpy()), words, enlarge=max(1, 192 // field.shape[0]))
    return Section(
        "field", "What the central patch sees", how, [strip([captioned(picture, f"{words}; its square root is shown")])]
    )


def probes(look: Look) -> Section | None:
    """Returns linear probes by block and by patch; None where the amount leaves them out."""
    if not look.amount.probed:
        return None
    how = (
        "A linear classifier is fitted to the last block's CLS or mean patch on half of the training images and read "
        "at every other place on the other half: lines that rise early mean that identities are known early. In the "
        "maps a bright patch knows the person by itself."
    )
    subject, parts = look.subject, look.subject.parts
    if isinstance(parts, str):
        return Section("probes", "Linear probes", how, [aside(parts)])
    rows = subject.sample("train", look.amount.probed, per_id=8)
    pids = subject.rows("train")["pid"].to_numpy()[rows]
    labels = torch.from_numpy(np.unique(pids, return_inverse=True)[1])
    tokens = _batched_tokens(subject, parts, rows)
    first = torch.arange(len(rows)) % 2 == 0
    halves = [[x[half] for x in tokens] for half in (first, ~first)]
    both = (labels[first], labels[~first])
    curves = probe_lines(halves[0], halves[1], both, num_prefix=parts.num_prefix)
    chart = charts.lines(
        "probes",
        "Accuracy of probes, fitted to last block",
        curves,
        x_label="after block",
        y_label="accuracy",
        zero=True,
    )
    fields = [
        probe_map(*block, both, num_prefix=parts.num_prefix).view(parts.grid).numpy()
        for block in zip(halves[0][1:], halves[1][1:], strict=True)
    ]
    ends = (float(np.min(fields)), float(np.max(fields)))
    size = max(1, 160 // parts.grid[0])
    tiles = [
        captioned(element(heat(field, ends), f"accuracy after block {number}", enlarge=size), f"block {number}")
        for number, field in enumerate(fields, start=1)
    ]
    label = "Accuracy of the probe of a block's mean patch at each patch after it"
    return Section("probes", "Linear probes", how, [chart, strip(tiles, label), scale(*(f"{end:.2f}" for end in ends))])


def _batched_tokens(subject: Subject, parts: TransformerParts, rows: npt.NDArray[np.int64]) -> list[Tensor]:
    batches = [
        trace_of(subject, parts, subject.inputs("train", rows[start : start + BATCH])).tokens
        for start in range(0, len(rows), BATCH)
    ]
    return [torch.cat(block) for block in zip(*batches, strict=True)]


def classifier(look: Look) -> Section:
    """Returns which training identities the classifier places near each other."""
    weights = look.subject.model.classifier.weight.detach()
    cosines = cosine_rows(weights)
    others = cosines[~torch.eye(len(weights), dtype=torch.bool)]
    low, high = fixed(float(cosines.min()), 2, True), fixed(1.0, 0)
    words = f"{len(weights)} training identities; two different ones at most {fixed(float(others.max()), 2, True)}"
    how = (
        "The cosine of each pair of the classifier's rows: bright points off the diagonal are training identities whom "
        "the classifier puts close together."
    )
    shown = cosines.numpy()[:256, :256]
    enlarge = max(1, 240 // len(shown))
    return Section(
        "classifier",
        "The classifier's rows",
        how,
        [strip([captioned(element(heat(shown), words, enlarge=enlarge), words)]), scale(low, high)],
    )


def plane(look: Look) -> Section:
    """Returns test features of a few identities in the plane, by the cell and by its reference."""
    how = (
        "Points of one colour and sign are gallery images of one person, the same in each chart: a person whose points "
        "scatter or mix with others is hard to retrieve. Places, sizes and distances of groups mean nothing."
    )
    subject = look.subject
    rows = subject.sample("gallery", TSNE_IDS * TSNE_IMAGES, per_id=TSNE_IMAGES)
    pids = subject.rows("gallery")["pid"].to_numpy(np.int64)[rows]
    found = []
    for number, one in enumerate([subject, *([look.reference] if look.reference else [])]):
        places = tsne(one.features[f"gallery_{one.side}"][rows], seed=0)
        if places is None:
            return Section("tsne", "Features in the plane", how, [aside(NEEDS)])
        title = f"{one.run.cell}: t-SNE, {len(np.unique(pids))} identities, {len(rows)} images"
        found.append(charts.scatter(f"tsne{number}", title, places, pids))
    return Section("tsne", "Features in the plane", how, found)


def moved_images(look: Look) -> Section | None:
    """Returns mAP of moved and resized queries, of the cell and its reference; None where the amount leaves it out."""
    if not look.amount.moved:
        return None
    subjects = [look.subject, *([look.reference] if look.reference else [])]
    width = look.subject.model.config.image_size[1]
    curves: dict[str, dict[str, list[float]]] = {"shift": {}, "scale": {}}
    for subject in subjects:
        curves["shift"][subject.run.cell] = [map_of_moved(look, subject, "shift", share * width) for share in SHIFTS]
        curves["scale"][subject.run.cell] = [map_of_moved(look, subject, "scale", factor) for factor in SCALES]
    how = (
        "Queries are moved to the right or resized inside their frame: a cell whose line falls faster depends more on "
        "where things are. The mAP is of a part of the queries, so only its course counts."
    )
    moved = charts.lines(
        "shift", "mAP of moved queries", curves["shift"], x=[100 * s for s in SHIFTS], x_label="moved, % of the width",
        y_label="mAP, %",
    )  # fmt: skip
    sized = charts.lines(
        "scale", "mAP of resized queries", curves["scale"], x=list(SCALES), x_label="factor", y_label="mAP, %"
    )
    return Section("moved", "Moved and resized images", how, [moved, sized])


def map_of_moved(look: Look, subject: Subject, kind: str, amount: float) -> float:
    """Returns the mAP in points of moved queries against the gallery as it is."""
    frame = subject.rows("query")
    rows = np.arange(min(len(frame), look.amount.moved))
    found = []
    with torch.no_grad():
        for start in range(0, len(rows), BATCH):
            images = subject.inputs("query", rows[start : start + BATCH])
            moved = shift(images, amount) if kind == "shift" else rescale(images, amount)
            camids = torch.from_numpy(frame["camid"].to_numpy(np.int64)[rows[start : start + BATCH]])
            found.append(subject.model.tested(subject.model(moved, camids), subject.side).numpy())
    gallery = subject.features
    scores = score(
        np.concatenate(found),
        gallery[f"gallery_{subject.side}"],
        query_pids=frame["pid"].to_numpy()[rows],
        query_camids=frame["camid"].to_numpy()[rows],
        gallery_pids=gallery["gallery_pids"],
        gallery_camids=gallery["gallery_camids"],
    )
    return 100 * scores.summary()["mAP"]
