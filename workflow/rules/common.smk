# What several rules need. Which runs have to be made is decided while planning, by content (`reidablate.standing`): a
# rule makes those files alone, whatever their times are, and what stands is an input like any other. `PLAN` is named in
# shell commands, not in params: its hash changes with any cell.
import os
import re
import subprocess

from snakemake.logging import logger

from reidablate.diagnosing import compared_runs, first_runs, page_of, pages_folder, pages_to_make
from reidablate.engine.devices import usable_gpus
from reidablate.errors import how_it_ended
from reidablate.gpus import share_of_cores
from reidablate.keeping import REMOVABLE
from reidablate.runs import EXTERNAL_FILES, SCORE_FILES, TRAINED_FILES
from reidablate.sent import RunMinutes
from reidablate.standing import TABLES as GATHERED
from reidablate.study import Run, transfer_folder
from reidablate.terminal import latest
from reidablate.tuning import tuning_runs, with_choices


def one_of(names):
    """A pattern of these names and no other; folders that they share are written once."""
    heads = {}
    for head, _, tail in (name.partition("/") for name in names):
        heads.setdefault(head, []).append(tail)
    parts = []
    for head, tails in heads.items():
        below = [tail for tail in tails if tail]
        rest = f"(?:/{one_of(below)})" if below else ""
        parts.append(re.escape(head) + rest + ("?" if below and "" in tails else ""))
    return f"(?:{'|'.join(parts)})" if parts else "(?!)"


localrules:
    all,


DATA = ROOT / "data"
LOGS = ROOT / "logs"
TABLES = ROOT / "tables"
PAGES = pages_folder(ROOT)
LASTING_FILES = [name for name in TRAINED_FILES if name not in REMOVABLE]  # `keep` may remove the others in between
MADE = {*NEEDS.train, *NEEDS.evaluate}
TRAINED_HERE = [run for run in NEEDS.train if not STUDY.cell(run.cell).external]
RUN_MINUTES = RunMinutes(STUDY)
EXPLAINED = {f"{run.dataset}/{run.cell}": run for run in pages_to_make(STUDY, NEEDS)}
ALL_TABLES = (*GATHERED, "contrasts.parquet", "claims.parquet", "slices.parquet", "joint.parquet")


def generated_images(wildcards):
    """The mark of a generated set, written last; a real set is made by no rule."""
    dataset = STUDY.dataset(wildcards.dataset)
    return [dataset.root / "SYNTHETIC"] if dataset.generated else []


def initial_weights(wildcards):
    """The file that a run starts from, or that the preset's own backbone does; a missing one is refused at the start."""
    run = Run.of(wildcards.run) if "run" in wildcards.keys() else None
    weights = STUDY.weights_of(STUDY.cell(run.cell).config_on(run.dataset)) if run else STUDY.weights
    return [weights] if weights and (STUDY.pretrains or weights.is_file()) else []


def what_decides(wildcards):
    """The scores of the runs that a tuned cell chooses by; the training reads them again."""
    run = Run.of(wildcards.run)
    return [ROOT / other.id / "metrics.json" for other in tuning_runs(STUDY, run.dataset, run.cell)]


def there(name):
    """The file `name` of every run that stands, or that this call makes."""
    return [ROOT / run.id / name for run in [*STUDY.runs, *STUDY.transfers] if run in MADE or run in NEEDS.stands]


def looked_into(name):
    """The files of a run, and of those that its page compares it with, as far as they stand or are made."""
    run = EXPLAINED[name]
    reference, others = compared_runs(STUDY, run)
    there = [r for r in (run, reference, *others) if r and (r in MADE or r in NEEDS.stands)]
    if not workflow.is_main_process:  # whatever is there when this job starts
        there = [r for r in there if (ROOT / r.id / "metrics.json").is_file()]
    return [ROOT / r.id / name for r in there for name in ("provenance.json", "metrics.json")]


def pages():
    """The records of the pages that are there or that this call makes."""
    records = {f"{run.dataset}/{run.cell}": page_of(STUDY, run).with_suffix(".json") for run in first_runs(STUDY)}
    return [record for name, record in records.items() if name in EXPLAINED or record.is_file()]


def stale(needs):
    """What is there and has to be made again all the same. By its own rules Snakemake might leave it."""
    files = [ROOT / run.id / "provenance.json" for run in [*needs.train, *needs.transfer]]
    files += [ROOT / run.id / "metrics.json" for run in needs.evaluate]
    files += [ROOT / "pretrain" / "provenance.json"] * (needs.pretrain and bool(needs.train))
    for dataset in needs.used_datasets:
        files += [STUDY.dataset(dataset).root / "SYNTHETIC"] * (dataset in needs.datasets)
        files += [DATA / dataset / "index" / "index.json"] * (dataset in needs.indexes)
        files += [DATA / dataset / "cache" / "cache.json"] * (dataset in needs.caches)
    files += [TABLES / "study.json"] * needs.tables
    files += [TABLES / "contrasts.parquet"] * needs.statistics
    files += [PAGES / f"{name}.json" for name in EXPLAINED]
    files += [ROOT / "report" / "index.html"] * (needs.report or bool(EXPLAINED))
    return [str(path) for path in files if path.is_file()]


def everything(wildcards):
    """The files of a whole study; what is stale among them is made again, as by --forcerun."""
    workflow.dag.forcefiles.update(stale(NEEDS))
    return [
        ROOT / "report" / "index.html",
        *(TABLES / name for name in ALL_TABLES),
        *(ROOT / run.id / name for run in NEEDS.train for name in LASTING_FILES),
        *(ROOT / run.id / name for run in NEEDS.evaluate for name in SCORE_FILES),
    ]


def imports(dataset):
    """What `reidablate import` left for a data set; one that comes or goes repeats what lies behind."""
    return (ROOT / "imported" / dataset).glob("[!.]*/provenance.json")


def gpu_limit():
    """What --resources gpu= allows; None without a limit."""
    limit = workflow.global_resources.get("gpu")
    return None if limit is None or limit.value is None else int(limit.value)


def threads_of_run():
    """The cores of a training: what the preset says, but few enough that every GPU of this call has one at work."""
    limit = gpu_limit() if STUDY.gpus_per_run and workflow.local_exec else None
    wanted = STUDY.preset.execution.threads
    threads = share_of_cores(wanted, cores=workflow.cores, gpus=limit) if limit else wanted
    return threads * max(1, STUDY.gpus_per_run)


def memory(wildcards, attempt):
    """What a scheduler may give a job of the host's memory, in MB; each further attempt asks for more."""
    return attempt * 1000 * STUDY.preset.execution.memory_gb


def an_hour(wildcards, attempt):
    """What a scheduler may give a job that trains nothing, in minutes."""
    return attempt * 60


def hours_of(run):
    """What a scheduler may give a training, in minutes, by the name of its wildcard; one cut short goes on."""
    return lambda wildcards, attempt: attempt * RUN_MINUTES.on(Run.of(wildcards[run]).dataset)


def print_refusals():
    """Prints every reason why the study should not start on this machine, and returns whether there is one."""
    num_gpus = usable_gpus() if workflow.local_exec else None
    refusals = STUDY.refusals(gpu_limit=gpu_limit(), num_gpus=num_gpus)
    for line in refusals:
        print(f"reidablate: {line}", file=sys.stderr)
    return bool(refusals)


def name_missing():
    """Ends with status 1 where a run that this call asked for is not in the tables, though no job failed."""
    if set(workflow.dag_settings.targets) - {"all"}:  # the call asked for some files
        return
    standing, asked = Standing(with_choices(STUDY)), set(STUDY.asked_runs)
    runs = [*STUDY.asked_runs, *(transfer for transfer in STUDY.transfers if transfer.run in asked)]
    missing = [f"{run.id} ({reason})" for run in runs if (reason := standing.unscored(run))]
    if missing:
        logger.error(f"reidablate: not in the tables: {', '.join(missing)}")
        sys.exit(1)


def look_further():
    """Starts this call again for the next look of a study that adds seeds, until no comparison needs more."""
    if STUDY.looks is None or set(workflow.dag_settings.targets) - {"all"}:
        return
    more = set(plan(CONFIG).asked_runs) - set(STUDY.asked_runs)
    if more:
        logger.info(f"reidablate: the look is over and {len(more)} more runs are needed; going on with the next look")
        workflow.persistence.unlock()  # of a call that does not use the profile
        release_hosts()
        start_over()


def print_failures():
    """Prints the last words of every failed job, and where its log is."""
    for log in sorted(Path(latest(job.log)) for job in workflow.scheduler.failed if job.log):
        logger.error(f"{how_it_ended(log)} [{log}]")


def report_what_is_there():
    """Gathers and renders every run that stands, so that one failing run hides nothing.

    The tables name what they were made of, so the next call knows whether they are still right. A report that shows more,
    because an upgrade is still scoring its runs again, is left alone. Ctrl-C ends the call at once, without a traceback.
    """
    if waiting := Standing(with_choices(STUDY)).to_score_again:
        logger.warning(f"reidablate: the report stays as it was until {len(waiting)} of its runs are scored again")
        return
    logger.warning("reidablate: writing the report of what is finished; press Ctrl-C to stop at once")
    study = ["--study", "."]
    for command in (["aggregate", "--plan", PLAN], ["statistics", ROOT, *study], ["report", ROOT, *study]):
        log = LOGS / f"{command[0]}.log"
        try:
            with log.open("w") as stream:
                done = subprocess.run(["reidablate", *map(str, command)], check=False, stdout=stream, stderr=stream)
        except KeyboardInterrupt:
            sys.exit(130)
        if done.returncode:
            logger.error(f"{how_it_ended(log)} [{log}]")
            return


def ask_wandb():
    """Says once why nothing can be sent to Weights & Biases, if so, and keeps the jobs from trying."""
    if STUDY.settings.wandb == "online":
        done = subprocess.run(["reidablate", "wandb", "check"], check=False, capture_output=True, text=True)
        if done.returncode:
            logger.warning(done.stderr.strip())
            os.environ.update(WANDB_MODE="disabled")  # jobs inherit it


def send_verdicts():
    """Sends the verdicts to Weights & Biases, where it is asked for."""
    if STUDY.settings.wandb != "disabled" and os.getenv("WANDB_MODE") != "disabled":
        offline = ["--offline"] * (STUDY.settings.wandb == "offline")
        command = ["reidablate", "wandb", "push", str(ROOT), "--verdicts", "--study", ".", *offline]
        with (LOGS / "wandb.log").open("w") as stream:
            subprocess.run(command, check=False, stdout=stream, stderr=stream)


def name_report():
    """Prints where the report is and what it answers."""
    from reidablate.report.answer import short_answer
    from reidablate.report.collect import collect

    page = ROOT / "report" / "index.html"
    if page.is_file():
        try:
            answer = short_answer(collect(TABLES))  # empty where nothing is compared
            logger.info(" ".join(filter(None, [f"report: {page}.", answer])))
        except (UserError, OSError) as error:
            logger.error(f"reidablate: {sentence(error)}")
