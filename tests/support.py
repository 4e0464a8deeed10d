"""What tests need besides fixtures."""

from pathlib import Path

from typer.testing import CliRunner

from reidablate.cli import app

ROOT = Path(__file__).parents[1]


def run_cli(*arguments: str) -> str:
    """Runs `reidablate` in this process and returns what it printed."""
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout
