# Images -> index -> cache. A generated set is written first; a real one is only read, and indexed again while planning
# when its files changed (Study.reindex_changed).
from reidablate.artifacts import canonical_json

if STUDY.preset.synthetic:

    rule synthesize:
        output:
            DATA / "{dataset}" / "images" / "SYNTHETIC",
        log:
            LOGS / "synthesize" / "{dataset}.log",
        wildcard_constraints:
            dataset=one_of(NEEDS.datasets),
        resources:
            mem_mb=memory,
            runtime=an_hour,
        params:
            recipe=lambda wildcards: canonical_json(STUDY.synthetic_recipe(wildcards.dataset)),
        shell:
            'reidablate data synthesize "$(dirname {output:q})" --recipe {params.recipe:q} > {log:q} 2>&1'


rule index:
    input:
        generated_images,
    output:
        update(DATA / "{dataset}" / "index" / "index.json"),
        update(DATA / "{dataset}" / "index" / "index.parquet"),
    log:
        LOGS / "index" / "{dataset}.log",
    wildcard_constraints:
        dataset=one_of(NEEDS.indexes),
    threads: 2
    resources:
        mem_mb=memory,
        runtime=an_hour,
    shell:
        "reidablate data index --plan {PLAN:q} --dataset {wildcards.dataset} --workers {threads} > {log:q} 2>&1"


rule cache:
    input:
        generated_images,
        DATA / "{dataset}" / "index" / "index.json",
    output:
        DATA / "{dataset}" / "cache" / "cache.json",
    log:
        LOGS / "cache" / "{dataset}.log",
    wildcard_constraints:
        dataset=one_of(NEEDS.caches),
    threads: 2
    resources:
        mem_mb=memory,
        runtime=an_hour,
    shell:
        "reidablate data cache --plan {PLAN:q} --dataset {wildcards.dataset} --workers {threads} > {log:q} 2>&1"
