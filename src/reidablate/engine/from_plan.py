"""From the plan of a study to the specification of one training."""

from reidablate.config import RunConfig
from reidablate.engine.devices import in_allocation, visible_gpus
from reidablate.engine.spec import RunSpec
from reidablate.errors import UserError
from reidablate.gpus import share_of_cores, takes_hours_on_a_cpu
from reidablate.provenance import usable_cores
from reidablate.study import PRETRAIN, Study
from reidablate.tuning import why_not_chosen


def train_spec(study: Study, *, dataset: str, cell: str, seed: int, gpus: int | None = None) -> RunSpec:
    """Returns the specification of one run of the plan.

    Args:
        study: The plan.
        dataset: Name of a data set of the plan.
        cell: Name of a cell of the plan.
        seed: The run's seed.
        gpus: GPUs that the scheduler granted, None when started by hand.

    Raises:
        UserError: The plan has no such run, or fewer GPUs were granted than the plan asks.
    """
    name = study.planned_run(dataset=dataset, cell=cell, seed=seed, gpus=gpus).id
    if study.cell(cell).external:
        raise UserError(f"{name} is trained by another code base; start it with `reidablate external`.")
    if study.cell(cell).is_open_on(dataset):
        raise UserError(f"{name}: {why_not_chosen(study, dataset, cell)}")
    return _spec(study, study.cell(cell).config_on(dataset), name, dataset=dataset, cell=cell, seed=seed)


def pretrain_spec(study: Study) -> RunSpec:
    """Returns the specification of the training of the quickstart's backbone; it has no features."""
    config = study.pretrain_config()
    return _spec(study, config, PRETRAIN, dataset=PRETRAIN, cell=PRETRAIN, seed=0)


def _spec(study: Study, config: RunConfig, name: str, *, dataset: str, cell: str, seed: int) -> RunSpec:
    execution, pretraining = study.preset.execution, name == PRETRAIN
    run = f" --dataset {dataset} --cell {cell} --seed {seed}"
    stage = f"pretrain --plan {study.path}" if pretraining else f"train --plan {study.path}{run}"
    cores = usable_cores()
    gpus = len(visible_gpus()) if study.gpus_per_run else 0  # each has a process of its own
    return RunSpec(
        config=config,
        name=name,
        dataset=dataset,
        cell=cell,
        seed=seed,
        data=study.data_folder(dataset),
        out=study.root / name,
        weights=None if pretraining else study.weights_of(config),
        gpus=study.gpus_per_run,
        device=study.settings.device,
        threads=share_of_cores(execution.threads_here, cores=cores, gpus=gpus),
        workers=share_of_cores(min(execution.workers, cores), cores=cores, gpus=gpus),
        wandb="disabled" if pretraining else study.settings.wandb,
        extract=not pretraining,
        stage_to=execution.stage_to,
        gpu_needed=study.gpus_per_run > 0 and in_allocation() and takes_hours_on_a_cpu(study),
        recompute=execution.recompute,
        same_code=study.settings.retrain == "code",
        command=f"reidablate {stage}",
    )
