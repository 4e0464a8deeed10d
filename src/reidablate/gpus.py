"""What a study asks of the GPUs and cores of a machine, and why it should not start on it."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reidablate.study import Study


def gpu_refusals(study: "Study", *, gpu_limit: int | None, num_gpus: int | None) -> list[str]:
    """Returns why a study should not start, as far as GPUs are concerned; see `Study.refusals`."""
    asked, preset, found = study.gpus_per_run, study.preset, []
    batches = {cell.name: cell.config.train.batch_size for cell in study.cells if cell.external is None}
    refused = [share_refusal(f"cell '{name}'", batch, asked) for name, batch in batches.items()] if asked else []
    found += [sentence for sentence in refused if sentence][:1]
    if gpu_limit is not None and gpu_limit < asked:
        found.append(
            f"a run of preset '{preset.name}' asks for gpu={asked} but --resources gpu={gpu_limit} allows fewer; raise "
            "it, or add --config device=cpu."
        )
    if study.settings.device == "cuda" and num_gpus == 0:
        found.append(
            "device=cuda was asked for but PyTorch can use no GPU here; check nvidia-smi, CUDA_VISIBLE_DEVICES and "
            "that PyTorch is built for CUDA."
        )
    if num_gpus and num_gpus < asked:
        found.append(
            f"a run of preset '{preset.name}' asks for gpu={asked} but only {num_gpus} can be used here; lower "
            "execution.gpu of the preset, or add --config device=cpu."
        )
    if takes_hours_on_a_cpu(study) and study.settings.device == "auto" and num_gpus == 0:
        found.append(
            f"preset '{preset.name}' would take hundreds of hours without a GPU and none can be used; add --config "
            "device=cpu to start it all the same, or preset=quickstart for the tiny study."
        )
    return found


def takes_hours_on_a_cpu(study: "Study") -> bool:
    """Returns whether a run is that of a paper, which starts from weights that were given, and not of a quickstart."""
    return study.preset.weights not in ("pretrain", "none")


def share_refusal(name: str, batch: int, gpus: int) -> str | None:
    """Returns why GPUs cannot share every batch of a training equally, None where they can.

    >>> share_refusal("cell 'p1'", 64, 3)
    "a batch of cell 'p1' has 64 images, which 3 GPUs cannot share equally; set execution.gpu to a divisor of 64."
    """
    if batch % gpus == 0:
        return None
    return (
        f"a batch of {name} has {batch} images, which {gpus} GPUs cannot share equally; set execution.gpu to a divisor "
        f"of {batch}."
    )


def share_of_cores(wanted: int, *, cores: int, gpus: int) -> int:
    """Returns how many of the `wanted` threads or processes a run may have beside one run on each other GPU.

    At least one. Without a GPU (0) a run is not limited: there the number of threads may change a bit of the result.

    >>> share_of_cores(4, cores=8, gpus=4), share_of_cores(4, cores=8, gpus=1), share_of_cores(4, cores=2, gpus=4)
    (2, 4, 1)
    """
    return min(wanted, max(1, cores // gpus)) if gpus else wanted
