# What a data set looks like, what any model has to beat on it, and why a cell scores as it does.


rule diagnose:
    input:
        initial_weights,
        DATA / "{dataset}" / "cache" / "cache.json",
    output:
        DATA / "{dataset}" / "diagnostics" / "floors.json",
        DATA / "{dataset}" / "diagnostics" / "samples.jpg",
    log:
        LOGS / "diagnose" / "{dataset}.log",
    wildcard_constraints:
        dataset=one_of(NEEDS.floors),
    resources:
        mem_mb=memory,
        runtime=an_hour,
    shell:
        "reidablate diagnose --plan {PLAN:q} --dataset {wildcards.dataset} > {log:q} 2>&1"


rule explain:
    input:
        lambda wildcards: looked_into(f"{wildcards.dataset}/{wildcards.cell}"),
    output:
        PAGES / "{dataset}" / "{cell}.html",
        PAGES / "{dataset}" / "{cell}.json",
    log:
        LOGS / "diagnose" / "{dataset}" / "{cell}.log",
    wildcard_constraints:
        dataset=one_of(dict.fromkeys(run.dataset for run in EXPLAINED.values())),
        cell=one_of(dict.fromkeys(run.cell for run in EXPLAINED.values())),
    threads: STUDY.preset.execution.threads
    resources:
        mem_mb=memory,
        runtime=an_hour,
    params:
        seed=lambda wildcards: EXPLAINED[f"{wildcards.dataset}/{wildcards.cell}"].seed,
    shell:
        "reidablate diagnose --plan {PLAN:q} --dataset {wildcards.dataset} --cell {wildcards.cell}"
        " --seed {params.seed} > {log:q} 2>&1"
