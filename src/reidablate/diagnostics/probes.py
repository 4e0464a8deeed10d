"""Linear probes, what single tokens know of identities: a classifier of one place of the network, read at all others.

Legend: N images, D width, C identities, T tokens, L blocks.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def fit_probe(features: Tensor, labels: Tensor, *, ridge: float = 1e-3) -> Tensor:
    """Returns the weights (D + 1, C) of a ridge regression of one-hot labels (N,) on standardised features (N, D).

    It has one solution and no random numbers. The last row is the intercept.

    Args:
        features: (N, D).
        labels: (N,) in 0 .. C - 1.
        ridge: Penalty as a share of the mean of the features' second moments.
    """
    design = _design(features)
    moments = design.T @ design
    penalty = ridge * moments.diagonal().mean() * torch.eye(len(moments), dtype=moments.dtype)
    targets = torch.nn.functional.one_hot(labels, int(labels.max()) + 1).double()
    weights: Tensor = torch.linalg.solve(moments + penalty, design.T @ targets)
    return weights


def probe_accuracy(weights: Tensor, features: Tensor, labels: Tensor) -> float:
    """Returns the share of features (N, D) that a probe gives their label (N,); features are standardised anew.

    So a probe of one block can be read at another, whose tokens have other means and lengths.
    """
    return float((_design(features) @ weights).argmax(1).eq(labels).double().mean())


def _design(features: Tensor) -> Tensor:
    values = features.detach().double().cpu()
    values = (values - values.mean(0)) / values.std(0, correction=0).clamp(min=1e-9)
    return torch.cat([values, values.new_ones(len(values), 1)], dim=1)


def probe_lines(
    train: Sequence[Tensor], test: Sequence[Tensor], labels: tuple[Tensor, Tensor], *, num_prefix: int
) -> dict[str, list[float]]:
    """Returns test accuracies by block, L + 1 each, of probes on the last block's CLS and mean patch, at both.

    Args:
        train: L + 1 tensors (N, T, D), before the first block and after each.
        test: Likewise of other images of the same identities.
        labels: Those of both.
        num_prefix: Tokens before the patches; without any there are no lines of CLS.
    """
    readings: dict[str, Callable[[Tensor], Tensor]] = {"mean": lambda tokens: tokens[:, num_prefix:].mean(1)}
    if num_prefix:
        readings["CLS"] = lambda tokens: tokens[:, 0]
    found = {}
    for name, read in readings.items():
        weights = fit_probe(read(train[-1]), labels[0])
        for other, at in readings.items():
            found[f"{name} to {other}"] = [probe_accuracy(weights, at(tokens), labels[1]) for tokens in test]
    return found


def probe_map(train: Tensor, test: Tensor, labels: tuple[Tensor, Tensor], *, num_prefix: int) -> Tensor:
    """Returns the test accuracy (n,) of a probe of the mean patch, read at each patch of (N, T, D) of one block."""
    weights = fit_probe(train[:, num_prefix:].mean(1), labels[0])
    patches = test[:, num_prefix:]
    return torch.tensor([probe_accuracy(weights, patches[:, k], labels[1]) for k in range(patches.shape[1])])
