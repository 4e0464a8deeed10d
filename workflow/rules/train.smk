# One training a run: fit and extract. The resume state is no output, so Snakemake never deletes it.


def initial_weights(wildcards):
    """The file that the run starts from; a change of it repeats the run. A missing one is refused at the start."""
    of_cell = "cell" in wildcards.keys()
    weights = STUDY.weights_of(STUDY.cell(wildcards.cell).config) if of_cell else STUDY.weights
    made_here = STUDY.settings.weights == "preset" and STUDY.preset.weights == "pretrain"
    return [weights] if weights and (made_here or weights.is_file()) else []


rule pretrain:
    input:
        DATA / "pretrain" / "cache" / "cache.json",
    output:
        ROOT / "pretrain" / "model.safetensors",
        ROOT / "pretrain" / "history.parquet",
        ROOT / "pretrain" / "provenance.json",
    params:
        config=STUDY.pretrain_config().hash,
        code=planned_code(ROOT / "pretrain"),
    log:
        LOGS / "pretrain.log",
    threads: STUDY.preset.execution.threads
    resources:
        gpu=STUDY.gpus_per_run,
    shell:
        "reidablate pretrain --plan {PLAN} --planned-code {params.code} 2> {log}"


rule train:
    input:
        initial_weights,
        DATA / "{dataset}" / "cache" / "cache.json",
    output:
        RUN + "/model.safetensors",
        RUN + "/features.npz",
        RUN + "/history.parquet",
        RUN + "/provenance.json",
    params:
        config=lambda wildcards: STUDY.cell(wildcards.cell).config_hash,
        code=lambda wildcards: planned_code(RUN.format(**wildcards)),
    log:
        LOGS / "train" / "{dataset}" / "{cell}" / "seed{seed}.log",
    threads: STUDY.preset.execution.threads
    resources:
        gpu=STUDY.gpus_per_run,
    shell:
        "reidablate train --plan {PLAN} --dataset {wildcards.dataset} --cell {wildcards.cell} --seed {wildcards.seed}"
        " --gpus {resources.gpu} --planned-code {params.code} 2> {log}"
