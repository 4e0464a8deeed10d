"""Learning rates and parameter groups of the recipe, against hand-worked values."""

import pytest
import torch

from reidablate.config import RunConfig
from reidablate.engine.schedule import build_optimiser, build_schedule, parameter_groups, set_epoch
from reidablate.models.neck import ReidModel

# lr(t) for base 4e-4, T = 120, w = 20 warm-up epochs; the bias group has base 8e-4.
J9 = {0: 4.0e-6, 1: 2.38e-5, 5: 1.03e-4, 10: 2.02e-4, 19: 3.802e-4, 20: 3.732587e-4, 40: 3.002e-4, 60: 2.004e-4,
      90: 5.926149e-5, 100: 2.754133e-5, 119: 8.683979e-7, 120: 8.0e-7}  # fmt: skip
J9_BIAS = {0: 4.0e-6, 1: 4.38e-5, 10: 4.02e-4, 19: 7.602e-4, 20: 7.464638e-4, 60: 4.004e-4, 119: 9.369329e-7}
J9_SHORT = {1: 8.32e-5, 4: 3.208e-4, 5: 3.982924e-4, 10: 3.931988e-4, 20: 3.732587e-4, 90: 5.926149e-5}


def config(**train: object) -> RunConfig:
    model = {"backbone": "vit_quickstart", "image_size": [64, 32], "rpe": {"kind": "full"}, "stem": "conv"}
    return RunConfig.model_validate({"model": model, "train": {"lr": 4e-4, "epochs": 120, **train}})


def rates(run: RunConfig, epoch: int) -> dict[str, float]:
    optimiser = build_optimiser(ReidModel(run.model, num_classes=5), run)
    set_epoch(build_schedule(optimiser, run), epoch, run)
    return {str(group["name"]): float(group["lr"]) for group in optimiser.param_groups}


def test_j9_rates_with_twenty_warm_up_epochs() -> None:
    run = config(warmup_fraction=20 / 120)
    for epoch, expected in J9.items():
        assert rates(run, epoch)["weights"] == pytest.approx(expected, rel=1e-6)
    for epoch, expected in J9_BIAS.items():
        assert rates(run, epoch)["biases"] == pytest.approx(expected, rel=1e-6)


def test_j9_rates_with_five_warm_up_epochs() -> None:
    run = config(warmup_fraction=5 / 120)
    for epoch, expected in J9_SHORT.items():
        assert rates(run, epoch)["weights"] == pytest.approx(expected, rel=1e-6)


def test_stepping_at_the_start_is_one_epoch_ahead() -> None:
    assert rates(config(lr_step_at="start"), 0) == rates(config(lr_step_at="end"), 1)


def test_every_trained_parameter_is_in_exactly_one_group_and_only_biases_run_faster() -> None:
    run = config()
    model = ReidModel(run.model, num_classes=5)
    groups = parameter_groups(model, run)
    members = {id(p): group for group in groups for p in group["params"]}  # type: ignore[attr-defined]
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert len(members) == sum(len(group["params"]) for group in groups) == len(trained)  # type: ignore[arg-type,misc]
    for name, parameter in trained.items():
        expected = 8e-4 if name.rsplit(".", 1)[1] == "bias" else 4e-4
        assert members[id(parameter)]["lr"] == expected, name


def test_the_authors_doubled_rate_of_relative_tables_is_an_option() -> None:
    run = config()
    author = run.model_copy(
        update={"model": run.model.model_copy(update={"rpe": run.model.rpe.model_copy(update={"lr_factor": 2.0})})}
    )
    model = ReidModel(author.model, num_classes=5)
    tables = next(group for group in parameter_groups(model, author) if group["name"] == "relative_tables")
    assert tables["lr"] == 8e-4
    assert len(tables["params"]) == 2  # type: ignore[arg-type]  # one table a block


def test_sgd_is_the_recipes() -> None:
    run = config()
    optimiser = build_optimiser(ReidModel(run.model, num_classes=5), run)
    assert isinstance(optimiser, torch.optim.SGD)
    for group in optimiser.param_groups:
        assert (group["momentum"], group["weight_decay"], group["nesterov"]) == (0.9, 1e-4, False)
