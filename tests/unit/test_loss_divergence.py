import math

import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.special import rel_entr

from reidablate.losses.divergence import DIVERGENCES, ag_mean, jsd, kl, sym_kl
from support import gradient


def logs(*rows: tuple[float, ...]) -> list[torch.Tensor]:
    return [torch.tensor(row, dtype=torch.float64).log() for row in rows]


def random_logs(seed: int = 0, shape: tuple[int, ...] = (3, 4, 6)) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    p, q = (torch.randn(shape, generator=generator, dtype=torch.float64).log_softmax(-1) for _ in range(2))
    return p, q


def test_vector_j4_kl_jsd_and_ag_mean() -> None:
    p, q, m = logs((0.5, 0.3, 0.2), (0.1, 0.6, 0.3), (0.3, 0.45, 0.25))
    assert kl(p, m).item() == pytest.approx(0.08914457, abs=1e-8)
    assert kl(m, p).item() == pytest.approx(0.08499750, abs=1e-8)
    assert jsd(p, q).item() == pytest.approx(0.10329453, abs=1e-8)
    assert ag_mean(p, q).item() == pytest.approx(0.11977193, abs=1e-8)


def test_vector_j4_torch_kl_div_is_the_other_direction() -> None:
    p, m = logs((0.5, 0.3, 0.2), (0.3, 0.45, 0.25))
    of_torch = torch.nn.functional.kl_div(p, m, reduction="sum", log_target=True)
    assert of_torch.item() == pytest.approx(kl(m, p).item(), abs=1e-12)


def test_vector_j4_uniform_against_peaked() -> None:
    p, q = logs((0.25,) * 4, (0.97, 0.01, 0.01, 0.01))
    assert jsd(p, q).item() == pytest.approx(0.32020943, abs=1e-8)
    assert ag_mean(p, q).item() == pytest.approx(0.50323855, abs=1e-8)
    assert jsd(p, q).item() < math.log(2)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_vector_j4_disjoint_distributions_have_a_value_and_a_finite_gradient(name: str) -> None:
    p, q = (x.requires_grad_() for x in logs((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)))
    value = DIVERGENCES[name](p, q)
    assert value.item() == pytest.approx(math.log(2) if name == "jsd" else math.inf)
    value.backward()
    assert torch.isfinite(gradient(p)).all()
    assert torch.isfinite(gradient(q)).all()


def test_divergences_equal_scipy() -> None:
    p, q = random_logs()
    a, b = p.exp().numpy(), q.exp().numpy()
    m = (a + b) / 2
    assert jsd(p, q).numpy() == pytest.approx(jensenshannon(a, b, axis=-1) ** 2, abs=1e-12)
    assert kl(p, q).numpy() == pytest.approx(rel_entr(a, b).sum(-1), abs=1e-12)
    assert sym_kl(p, q).numpy() == pytest.approx((rel_entr(a, b) + rel_entr(b, a)).sum(-1) / 2, abs=1e-12)
    assert ag_mean(p, q).numpy() == pytest.approx((rel_entr(m, a) + rel_entr(m, b)).sum(-1) / 2, abs=1e-12)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_gradient_equals_finite_differences(name: str) -> None:
    p, q = random_logs(1, (2, 3))
    assert torch.autograd.gradcheck(DIVERGENCES[name], (p.requires_grad_(), q.requires_grad_()))


@pytest.mark.parametrize("name", DIVERGENCES)
def test_equal_distributions_have_zero_divergence_and_zero_gradient(name: str) -> None:
    logits = torch.tensor([0.3, -1.0, 2.0, 0.0], dtype=torch.float64, requires_grad=True)
    constant = logits.detach().log_softmax(-1)
    value = DIVERGENCES[name](logits.log_softmax(-1), constant)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-15)
    assert gradient(logits).abs().max() < 1e-15


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", DIVERGENCES)
def test_half_precision_is_computed_in_float32(name: str, dtype: torch.dtype) -> None:
    p, q = (x.to(dtype) for x in random_logs(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = DIVERGENCES[name](p, q)
    assert value.dtype == torch.float32
    assert torch.equal(value, DIVERGENCES[name](p.float(), q.float()))
