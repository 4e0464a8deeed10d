# Features -> scores of every query, on both sides of the neck. A run whose cell asks for it is also scored on other
# data sets of the study: nothing is trained for that.


rule evaluate:
    input:
        RUN / "features.npz",
        RUN / "provenance.json",
    output:
        queries=RUN / "queries.parquet",
        camera_pairs=RUN / "camera_pairs.parquet",
        metrics=RUN / "metrics.json",
    log:
        LOGS / "evaluate" / "{dataset}" / "{cell}" / "seed{seed}.log",
    shell:
        'reidablate evaluate "$(dirname {output.queries:q})" --plan {PLAN:q} 2> {log:q}'


rule transfer:
    input:
        RUN / "model.safetensors",
        RUN / "provenance.json",
        DATA / "{other}" / "cache" / "cache.json",
    output:
        TRANSFER / "features.npz",
        TRANSFER / "provenance.json",
    log:
        LOGS / "transfer" / "{dataset}" / "{cell}" / "seed{seed}_on_{other}.log",
    threads: STUDY.preset.execution.threads
    resources:
        gpu=STUDY.gpus_per_run,
    shell:
        "reidablate transfer --plan {PLAN:q} --dataset {wildcards.dataset} --cell {wildcards.cell}"
        " --seed {wildcards.seed} --on {wildcards.other} --gpus {resources.gpu} 2> {log:q}"


rule evaluate_transfer:
    input:
        TRANSFER / "features.npz",
        TRANSFER / "provenance.json",
    output:
        queries=TRANSFER / "queries.parquet",
        camera_pairs=TRANSFER / "camera_pairs.parquet",
        metrics=TRANSFER / "metrics.json",
    log:
        LOGS / "evaluate" / "{dataset}" / "{cell}" / "seed{seed}_on_{other}.log",
    shell:
        'reidablate evaluate "$(dirname {output.queries:q})" --plan {PLAN:q} 2> {log:q}'
