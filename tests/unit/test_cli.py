"""Commands that no stage of the workflow calls."""

import importlib.metadata
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file
from typer.testing import CliRunner

from reidablate.cli import app, main
from reidablate.errors import UserError
from reidablate.options import INTERNAL


def run(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_cells_are_listed_by_group_with_their_whole_names(project: Path) -> None:
    lines = run("cells", "list", "--tier", "all").splitlines()
    titles = [line.strip() for line in lines if line.strip().isidentifier()]
    assert titles[0] == "main"
    assert titles == list(dict.fromkeys(titles))
    assert {"as_run", "positions", "negative_results"} <= set(titles)
    names = [line.split("│")[1].strip() for line in lines if line.startswith("│")]
    names = [name for name in names if name]
    assert "p2_pairs_combinations_with_replacement" in names
    assert names[:3] == ["naive_triplet", "p1", "p1_rpe"]
    assert "p1_as_run" not in run("cells", "list", "--tier", "core")


def test_a_title_is_shown_as_it_is_and_steers_no_terminal(project: Path) -> None:
    title = r'"\e[31m[bold]a[/bold]\a \u202eb [/]"'
    (project / "ablations" / "mine.yaml").write_text(f"name: mine\nextends: p1\ngroup: '[red]mine'\ntitle: {title}\n")
    listed = run("cells", "list", "--tier", "all")
    assert "[bold]a[/bold] b [/]" in listed
    assert "[red]mine" in listed
    assert not set("\x1b\a\u202e") & set(listed)


def test_a_checkpoint_is_converted_under_our_names(tmp_path: Path) -> None:
    theirs = {
        "pos_embed": torch.arange(9.0).reshape(1, 9, 1).expand(1, 9, 4),
        "patch_embed.proj.weight": torch.ones(4, 3, 8, 8),
        "fc.weight": torch.zeros(1000, 4),
    }
    torch.save({"teacher": {f"module.backbone.{name}": value for name, value in theirs.items()}}, tmp_path / "a.pth")
    assert "b.safetensors written" in run("weights", "convert", tmp_path / "a.pth", tmp_path / "b.safetensors")
    converted = load_file(tmp_path / "b.safetensors")
    assert set(converted) == {"backbone.ape.table", "backbone.stem.projection.weight"}
    assert converted["backbone.ape.table"][:, 0].tolist() == list(range(9))


def test_a_destination_that_loading_would_not_know_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"should end in \.safetensors"):
        run("weights", "convert", tmp_path / "a.pth", tmp_path / "b.pth")


def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Runs the program as the shell does and returns its one sentence."""
    monkeypatch.setattr(sys, "argv", ["reidablate", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert line.startswith("reidablate: ")
    return line


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["trian"], "no such command 'trian'. Did you mean 'train'"),
        (["train", "--sed", "3"], "no such option: --sed"),
        (["aggregate"], "missing option '--plan'; see reidablate aggregate --help."),
        (["cells", "show"], "see reidablate cells show --help."),
        (["data", "cache", "--plan", "x", "--dataset", "y", "--workers", "0"], "invalid value for '--workers'"),
        (["aggregate", "--plan", "."], ". cannot be read: Is a directory"),
        (["evaluate", "file"], "file/provenance.json cannot be read: Not a directory"),
        (["data", "synthesize", "file"], "cannot write file: File exists"),
        (["data", "check", "file", "--format", "manifest"], "the manifest file cannot be read"),
        (["cells", "list", "--ablations", "file"], "there is no folder file"),
    ],
)
def test_every_error_is_one_sentence_and_status_2(
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    sentence: str,
) -> None:
    (project / "file").write_text("a,b\n1,2\n1,2,3\n")
    assert sentence in refused(monkeypatch, capsys, *arguments)


def test_the_version_is_printed() -> None:
    assert run("--version") == f"reidablate {importlib.metadata.version('reidablate')}\n"


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-c", "from reidablate.cli import main; main()", *map(str, arguments)]


def test_a_reader_that_stops_early_sees_no_traceback() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command("cells", "schema"), stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert done.stderr == b""
    assert done.returncode != 0


def test_an_interrupt_ends_with_status_130_and_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    counts = '{"train_images": 8, "train_ids": 2}'
    heard: dict[str, Any] = {
        "preexec_fn": lambda: signal.signal(signal.SIGINT, signal.default_int_handler)
    }  # also in the background
    with FileLock(tmp_path / "set" / ".lock"):
        call = command("data", "synthesize", tmp_path / "set", "--counts", counts)
        process = subprocess.Popen(call, stderr=subprocess.PIPE, **heard)
        assert process.stderr is not None
        with process.stderr:
            assert b"waiting for it" in process.stderr.readline()
            process.send_signal(signal.SIGINT)
            assert process.wait() == 130
            assert process.stderr.read() == b""


@pytest.mark.parametrize("kilobytes", range(16_000, 48_000, 4_000))
def test_too_little_memory_to_start_is_one_sentence_and_status_2(kilobytes: int) -> None:
    def limited(code: str) -> "subprocess.CompletedProcess[str]":
        command = ["bash", "-c", 'ulimit -v "$0"; exec "$@"', str(kilobytes), sys.executable, "-c", code]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    if limited("import sys").returncode != 0:
        return  # not even Python starts
    done = limited("import sys; sys.argv[1:] = ['cells', 'list']; from reidablate.__main__ import main; main()")
    assert done.returncode == 2
    assert re.fullmatch("reidablate: memory is used up .*; close other programs, .*\\.\n", done.stderr)


def test_a_broken_installation_is_one_sentence_and_status_2(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("raise ImportError('libx.so.1: cannot open shared object file')\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from reidablate.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        "reidablate: the installation cannot be used (ImportError: libx.so.1: cannot open shared object file); install "
        "the package again with all it needs.\n"
    )


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_obstacle(closed: str) -> None:
    command = ["bash", "-c", f'"$0" -m reidablate --version {closed}', sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_commands_of_a_user_and_stages_stand_in_panels_of_their_own() -> None:
    for group, users, stages in (
        ([], {"init", "watch", "report", "score", "cells", "wandb"}, {"train", "evaluate", "aggregate", "stats"}),
        (["data"], {"check", "synthesize"}, {"index", "cache"}),
        (["cells"], {"new", "list"}, {"recorded"}),
    ):
        text = run(*group, "--help")
        before, _, behind = text.partition(INTERNAL)
        names = [{line.split()[1] for line in part.splitlines() if line.startswith("│ ")} for part in (before, behind)]
        assert users <= names[0] - names[1]
        assert stages <= names[1] - names[0]


def test_the_shell_completes_commands() -> None:
    asked = {"_REIDABLATE_COMPLETE": "complete_bash", "COMP_WORDS": "reidablate wa", "COMP_CWORD": "1"}
    program = Path(sys.executable).with_name("reidablate")
    done = subprocess.run([program], env={**os.environ, **asked}, check=False, capture_output=True, text=True)
    assert "watch" in done.stdout.split()
    assert done.stderr == ""


def test_commands_on_results_find_them_from_the_study_and_name_it_where_there_is_none(
    project: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(elsewhere)
    commands = {name: [name] for name in ("report", "watch", "clean")} | {"wandb": ["wandb", "push", "--offline"]}
    commands |= {"import": ["import", "x", "a.npz", "--dataset", "market1501"]}
    commands |= {"test": ["test", "a.pth", "--dataset", "market1501"]}
    for words in commands.values():
        with pytest.raises(UserError, match=r"name one with --study DIR, or make one with `reidablate init DIR`"):
            run(*words)
    for name, words in commands.items():
        if name != "test":  # it needs no results
            with pytest.raises(UserError, match=f"there is no study in {project}/results; run snakemake first"):
                run(*words, "--study", project)
