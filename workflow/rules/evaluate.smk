# Features -> scores of every query, on both sides of the neck. A run whose cell asks for it is also scored on other
# data sets of the study: nothing is trained for that.


rule transfer:
    input:
        ROOT / "{run}" / "model.safetensors",
        ROOT / "{run}" / "provenance.json",
        DATA / "{other}" / "cache" / "cache.json",
    output:
        transfer_folder(ROOT / "{run}", "{other}") / "features.npz",
        transfer_folder(ROOT / "{run}", "{other}") / "provenance.json",
    log:
        LOGS / "transfer" / "{run}_on_{other}.log",
    wildcard_constraints:
        run=one_of(dict.fromkeys(transfer.run.id for transfer in NEEDS.transfer)),
        other=one_of(dict.fromkeys(transfer.on for transfer in NEEDS.transfer)),
    threads: threads_of_run()
    resources:
        gpu=min(1, STUDY.gpus_per_run),  # however many the training had
        mem_mb=memory,
        runtime=an_hour,
    params:
        run=lambda wildcards: Run.of(wildcards.run),
    shell:
        "reidablate transfer --plan {PLAN:q} --dataset {params.run.dataset} --cell {params.run.cell}"
        " --seed {params.run.seed} --on {wildcards.other} --gpus {resources.gpu} > {log:q} 2>&1"


rule evaluate:
    input:
        ROOT / "{scored}" / "features.npz",
        ROOT / "{scored}" / "provenance.json",
    output:
        queries=ROOT / "{scored}" / "queries.parquet",
        camera_pairs=ROOT / "{scored}" / "camera_pairs.parquet",
        metrics=ROOT / "{scored}" / "metrics.json",
    log:
        LOGS / "evaluate" / "{scored}.log",
    wildcard_constraints:
        scored=one_of(run.id for run in NEEDS.evaluate),
    resources:
        mem_mb=memory,
        runtime=an_hour,
    shell:
        'reidablate evaluate "$(dirname {output.queries:q})" --plan {PLAN:q} > {log:q} 2>&1'
