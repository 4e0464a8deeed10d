# One training a run: fit and extract. The resume state is no output, so Snakemake never deletes it.


rule pretrain:
    input:
        DATA / "pretrain" / "cache" / "cache.json",
    output:
        ROOT / "pretrain" / "model.safetensors",
        ROOT / "pretrain" / "history.parquet",
        ROOT / "pretrain" / "provenance.json",
    log:
        LOGS / "pretrain.log",
    threads: STUDY.preset.execution.threads
    resources:
        gpu=STUDY.gpus_per_run,
    params:
        config=STUDY.pretrain_config().hash,
        code=planned_code(ROOT / "pretrain"),
    shell:
        "reidablate pretrain --plan {PLAN:q} --planned-code {params.code} 2> {log:q}"


rule train:
    input:
        initial_weights,
        DATA / "{dataset}" / "cache" / "cache.json",
    output:
        RUN / "model.safetensors",
        RUN / "features.npz",
        RUN / "history.parquet",
        RUN / "provenance.json",
    log:
        LOGS / "train" / "{dataset}" / "{cell}" / "seed{seed}.log",
    threads: STUDY.preset.execution.threads
    resources:
        gpu=STUDY.gpus_per_run,
    params:
        config=lambda wildcards: STUDY.cell(wildcards.cell).config_hash,
        code=lambda wildcards: planned_code(str(RUN).format(**wildcards)),
    shell:
        "reidablate train --plan {PLAN:q} --dataset {wildcards.dataset} --cell {wildcards.cell} --seed {wildcards.seed}"
        " --gpus {resources.gpu} --planned-code {params.code} 2> {log:q}"
