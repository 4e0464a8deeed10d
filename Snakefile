# A study: every cell on every data set with every seed, from the images to the report.
#
#   snakemake --cores all --resources gpu=4
#
# Settings are in workflow/config/default.yaml and can be given for one call with --config key=value.
import sys
from pathlib import Path

from reidablate.config import load_yaml, merge
from reidablate.engine.devices import visible_gpus
from reidablate.errors import UserError, sentence
from reidablate.study import plan

try:
    STUDY = plan(merge(load_yaml(Path("workflow/config/default.yaml")), config))
    PLAN = STUDY.write()
    if workflow.is_main_process:  # not in a job on another machine
        STUDY.reindex_changed()
except (UserError, OSError) as error:
    print(f"reidablate: {sentence(error)}", file=sys.stderr)
    sys.exit(2)

ROOT = STUDY.root


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/diagnose.smk"
include: "workflow/rules/aggregate.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        ROOT / "report" / "index.html",
        [run_files(name) for name in RUN_FILES],


onstart:
    for line in STUDY.notices:
        print(f"reidablate: {line}", file=sys.stderr)
    if reason := STUDY.refusal(gpu_limit=gpu_limit(), num_gpus=len(visible_gpus())):
        print(f"reidablate: {reason}", file=sys.stderr)
        sys.exit(2)


onerror:
    report_what_is_there()
    print_failures()
