"""CKA, skips, probes, receptive fields and moved images where the outcome is known; non-square grids and images."""

import numpy as np
import pytest
import torch

from reidablate.diagnostics.embedding import tsne
from reidablate.diagnostics.probes import fit_probe, probe_accuracy, probe_lines, probe_map
from reidablate.diagnostics.receptive_field import area_share, effective_receptive_field
from reidablate.diagnostics.representation import cka_matrix, cosine_rows, input_similarity, linear_cka, skip_ratios
from reidablate.diagnostics.transforms import rescale, shift


def _draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_representations_that_are_equal_up_to_rotation_shift_and_scale_have_cka_one() -> None:
    x = _draw(40, 6)
    rotation = torch.linalg.qr(_draw(6, 6, seed=1)).Q
    assert linear_cka(x, x) == pytest.approx(1)
    assert linear_cka(x, 3 * x @ rotation + 5) == pytest.approx(1)


def test_random_representations_have_cka_near_zero_and_orthogonal_ones_none() -> None:
    assert linear_cka(_draw(4000, 6), _draw(4000, 9, seed=1)) < 0.01
    basis = torch.linalg.qr(torch.cat([torch.ones(20, 1), _draw(20, 8)], dim=1)).Q[:, 1:]
    assert linear_cka(basis[:, :4], basis[:, 4:]) == pytest.approx(0, abs=1e-12)


def test_cka_is_the_formula_either_way() -> None:
    for number, width in ((30, 4), (5, 12)):  # more and fewer examples than columns
        x, y = _draw(number, width).double(), _draw(number, width + 1, seed=1).double()
        centre = torch.eye(number, dtype=torch.float64) - 1 / number
        k, m = centre @ x @ x.T @ centre, centre @ y @ y.T @ centre
        expected = (k * m).sum() / (k.norm() * m.norm())
        assert linear_cka(x, y) == pytest.approx(float(expected))
        assert float(cka_matrix([x], [y, x])[0, 1]) == pytest.approx(1)


@pytest.mark.parametrize("num_prefix", [0, 1])
def test_skip_ratios_of_planted_lengths(num_prefix: int) -> None:
    skip, branch = torch.ones(3, num_prefix + 8, 4), torch.full((3, num_prefix + 8, 4), 0.5)
    branch[:, :num_prefix] = 4.0
    found = skip_ratios([skip, branch], [branch, skip], num_prefix=num_prefix)
    assert found[:, 1].tolist() == pytest.approx([2, 0.5])
    if num_prefix:
        assert found[:, 0].tolist() == pytest.approx([0.25, 4])
    else:
        assert bool(found[:, 0].isnan().all())


@pytest.mark.parametrize("num_prefix", [0, 1])
def test_input_similarity_of_what_is_kept_turned_and_replaced(num_prefix: int) -> None:
    start = _draw(2, num_prefix + 8, 6)
    other = torch.zeros_like(start)
    other[..., 0], start[..., 0] = 1.0, 0.0
    found = input_similarity([start, 2 * start, -start, other], num_prefix=num_prefix)
    assert found.tolist() == pytest.approx([1, 1, -1, 0], abs=1e-6)


def test_classifier_rows_that_point_alike_are_similar() -> None:
    rows = torch.tensor([[1.0, 0], [2, 0], [0, 3]])
    assert torch.allclose(cosine_rows(rows), torch.tensor([[1.0, 1, 0], [1, 1, 0], [0, 0, 1]]))


def _tokens(labels: torch.Tensor, knows: list[int], num_tokens: int, seed: int) -> torch.Tensor:
    """Tokens (N, T, 6) of which those in `knows` hold the label among noise and the others noise alone."""
    tokens = _draw(len(labels), num_tokens, 6, seed=seed)
    for token in knows:
        tokens[torch.arange(len(labels)), token, labels] += 20
    return tokens


def test_a_probe_reads_the_tokens_that_know_the_identity_and_no_other() -> None:
    labels = torch.arange(120) % 6
    train, test = ([_draw(120, 9, 6, seed=s), _tokens(labels, [0, *range(1, 9)], 9, seed=s)] for s in (1, 2))
    lines = probe_lines(train, test, (labels, labels), num_prefix=1)
    assert set(lines) == {"CLS to CLS", "CLS to mean", "mean to CLS", "mean to mean"}
    assert all(line[1] > 0.95 and line[0] < 0.4 for line in lines.values())
    assert set(probe_lines(train, test, (labels, labels), num_prefix=0)) == {"mean to mean"}


@pytest.mark.parametrize("num_prefix", [0, 1])
def test_the_map_of_a_probe_points_at_the_patch_that_knows(num_prefix: int) -> None:
    labels = torch.arange(120) % 6
    train, test = (_tokens(labels, [num_prefix + 5], num_prefix + 8, seed=s) for s in (1, 2))
    found = probe_map(train, test, (labels, labels), num_prefix=num_prefix)
    assert int(found.argmax()) == 5
    assert float(found[5]) > 0.9
    assert float(found[[0, 1, 2, 3, 4, 6, 7]].max()) < 0.4


def test_probe_weights_are_those_of_the_normal_equations() -> None:
    features, labels = _draw(50, 3).double(), torch.arange(50) % 2
    x = np.asarray(features)
    x = np.c_[(x - x.mean(0)) / x.std(0), np.ones(50)]
    penalty = 1e-3 * np.trace(x.T @ x) / 4
    expected = np.linalg.solve(x.T @ x + penalty * np.eye(4), x.T @ np.eye(2)[labels])
    assert np.allclose(fit_probe(features, labels), expected)
    assert 0 <= probe_accuracy(fit_probe(features, labels), features, labels) <= 1


def test_the_receptive_field_of_a_convolution_is_its_kernel() -> None:
    layer = torch.nn.Conv2d(3, 2, 4, stride=4, bias=False)
    torch.nn.init.constant_(layer.weight, 1.0)

    def tokens_of(images: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = layer(images).flatten(2).transpose(1, 2)
        return found

    field = effective_receptive_field(tokens_of, _draw(2, 3, 16, 8), 5)  # grid 4 x 2: row 2, column 1
    expected = torch.zeros(16, 8)
    expected[8:12, 4:8] = 1
    assert torch.equal(field, expected)
    assert area_share(field) == 16 / 128  # every pixel of the kernel is needed: 15 hold 93.75 %
    assert area_share(torch.ones(10, 10)) == pytest.approx(0.95)


def test_a_shift_moves_whole_pixels_and_repeats_the_border() -> None:
    images = torch.arange(24.0).view(1, 1, 6, 4).expand(1, 3, 6, 4)
    moved = shift(images, 1.0, 2.0)
    assert torch.allclose(moved[0, 0, 2:, 1:], images[0, 0, :-2, :-1], atol=1e-4)
    assert torch.allclose(moved[0, 0, 0], moved[0, 0, 2], atol=1e-4)
    assert torch.allclose(shift(images, 0.0), images, atol=1e-4)


def test_rescaling_keeps_the_centre_and_the_frame() -> None:
    rows = torch.arange(9.0).view(1, 1, 9, 1).expand(1, 3, 9, 5)
    half = rescale(rows, 0.5)
    assert half.shape == rows.shape
    assert half[0, 0, :, 2].tolist() == pytest.approx([0, 0, 0, 2, 4, 6, 8, 8, 8], abs=1e-4)
    assert rescale(rows, 2.0)[0, 0, ::2, 2].tolist() == pytest.approx([2, 3, 4, 5, 6], abs=1e-4)
    assert torch.allclose(rescale(rows, 1.0), rows, atol=1e-4)


def test_separate_identities_stay_separate_in_the_plane() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 12)
    places = tsne(10 * np.eye(8)[labels] + rng.normal(0, 0.3, (48, 8)), seed=0)
    assert places is not None
    distances = np.linalg.norm(places[:, None] - places[None], axis=2) + 1e9 * np.eye(48)
    assert (labels[distances.argmin(1)] == labels).all()
