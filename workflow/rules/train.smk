# One training a run: fit and extract, or the command of another code base. The resume state is no output, so Snakemake
# never deletes it. The outputs are marked as updated, so that Snakemake leaves what is there to the training: if it is
# the planned run, it stands. The shell is replaced by the command (exec), so that no signal to both ends the job before
# the training has saved its state.


if NEEDS.pretrain:

    rule pretrain:
        input:
            DATA / "pretrain" / "cache" / "cache.json",
        output:
            update(ROOT / "pretrain" / "model.safetensors"),
            update(ROOT / "pretrain" / "history.parquet"),
            update(ROOT / "pretrain" / "provenance.json"),
        log:
            LOGS / "pretrain.log",
        threads: threads_of_run()
        resources:
            gpu=STUDY.gpus_per_run,
            mem_mb=memory,
            runtime=lambda wildcards, attempt: attempt * RUN_MINUTES.on("pretrain"),
        shell:
            "exec reidablate pretrain --plan {PLAN:q} > {log:q} 2>&1"


rule train:
    input:
        initial_weights,
        what_decides,
        lambda wildcards: DATA / Run.of(wildcards.run).dataset / "cache" / "cache.json",
    output:
        [update(ROOT / "{run}" / name) for name in TRAINED_FILES],
    log:
        LOGS / "train" / "{run}.log",
    wildcard_constraints:
        run=one_of(run.id for run in TRAINED_HERE),
    threads: threads_of_run()
    resources:
        gpu=STUDY.gpus_per_run,
        mem_mb=memory,
        runtime=hours_of("run"),
    params:
        run=lambda wildcards: Run.of(wildcards.run),
    shell:
        "exec reidablate train --plan {PLAN:q} --dataset {params.run.dataset} --cell {params.run.cell}"
        " --seed {params.run.seed} --gpus {resources.gpu} > {log:q} 2>&1"


rule external:
    input:
        lambda wildcards: DATA / Run.of(wildcards.foreign).dataset / "index" / "index.json",
    output:
        [update(ROOT / "{foreign}" / name) for name in EXTERNAL_FILES],
    log:
        LOGS / "train" / "{foreign}.log",
    wildcard_constraints:
        foreign=one_of(run.id for run in NEEDS.train if STUDY.cell(run.cell).external),
    threads: threads_of_run()
    resources:
        gpu=STUDY.gpus_per_run,
        mem_mb=memory,
        runtime=hours_of("foreign"),
    params:
        run=lambda wildcards: Run.of(wildcards.foreign),
    shell:
        "exec reidablate external --plan {PLAN:q} --dataset {params.run.dataset} --cell {params.run.cell}"
        " --seed {params.run.seed} --gpus {resources.gpu} > {log:q} 2>&1"
