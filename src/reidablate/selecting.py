"""What a call asks for: its settings as the user wrote them, and the names that its words select.

Snakemake reads the values of `--config` as numbers and YAML, so `cells=2024_05` arrives as 202405 and `results='a #b'`
as `a`. What was written is recovered from the arguments themselves; in a configuration file YAML has the last word.
"""

import datetime
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from reidablate.config import nearest
from reidablate.errors import UserError

Word = str | int | float | bool | None
Asked = str | int | float | bool | list[Word]  # of `cells` and `datasets`

PATHS = ("data_root", "results", "ablations", "weights", "preset")
_WHAT = {"cells": "cell", "datasets": "data set"}
_WHERE = {"cells": "", "datasets": " in dataset_table"}


def as_written(config: Mapping[str, Any], arguments: Iterable[str]) -> dict[str, Any]:
    """Returns a Snakemake configuration with names and paths as the user wrote them; null means not given.

    Args:
        config: What Snakemake made of `--config` and `--configfile`.
        arguments: The `key=value` words behind `--config`.

    Raises:
        UserError: A path is empty, or YAML reads it as something else than text.
    """
    written = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    found = {key: _raw(key, value, written.get(key)) for key, value in config.items()}
    found = {key: value for key, value in found.items() if value is not None}
    for key in PATHS:
        if key in found:
            _check_path(key, found[key])
    return found


def _raw(key: str, value: Any, written: str | None) -> Any:
    """Returns a name or path as it was written, unless that was a list of names or had quotes of its own."""
    if key not in (*PATHS, *_WHAT):
        return value
    if isinstance(value, datetime.date):
        return value.isoformat()
    if key == "weights" and isinstance(value, dict):  # a file for each backbone
        return value
    quoted = written is not None and len(written) > 1 and written[0] == written[-1] and written[0] in "\"'"
    is_list = isinstance(value, list) and key in _WHAT
    return value if written is None or quoted or is_list else written


def _check_path(key: str, value: Any) -> None:
    if isinstance(value, dict):
        for name, path in value.items():
            _check_path(f"{key}.{name}", path)
        return
    if not isinstance(value, str):
        raise UserError(f"{key}: {value!r} is not text; in a configuration file, put it in quotes.")
    if not value.strip():
        raise UserError(f"{key} is empty; write a name, or leave the key out.")
    if value.startswith("-"):
        raise UserError(f"{key}: {value!r} begins with '-', like an option of a command; choose another name.")
    if bad := next((letter for letter in value if letter in "{}" or unicodedata.category(letter)[0] == "C"), None):
        raise UserError(
            f"{key}: {value!r} contains {bad!r}; Snakemake gives braces a meaning of its own and control characters "
            "are not safe in file names, so choose a path without them."
        )


def check_folder(folder: Path) -> None:
    """Checks that the files of a study can be named in the rules of Snakemake.

    Raises:
        UserError: The path contains a brace or a control character.
    """
    _check_path("results", str(folder))


def pick(
    key: str, asked: Asked, known: Mapping[str, Sequence[str]], broken: Mapping[str, str] | None = None
) -> list[str]:
    """Returns the names that the words of a setting select, each once.

    A word is a name, a pattern of names such as `p1*`, or whatever else `known` lists, such as the file of a sweep. A
    number selects the one name that YAML or Snakemake reads as it.

    Args:
        key: The setting, for the sentence.
        asked: Names separated by commas, or a list.
        known: The names that each word stands for.
        broken: Why a name cannot be used.

    Raises:
        UserError: A word selects nothing, or something broken; the sentence says why or names the nearest word.
    """
    found: dict[str, None] = {}
    for word in _words(key, asked):
        found |= dict.fromkeys(_named(key, word, known, broken or {}))
    return list(found)


def _words(key: str, asked: Asked) -> list[Word]:
    words: list[Word] = []
    for part in asked if isinstance(asked, list) else [asked]:
        words += [word.strip() for word in part.split(",") if word.strip()] if isinstance(part, str) else [part]
    if not words:
        raise UserError(f"--config {key}: {asked!r} names none; write all, or names separated by commas.")
    return words


def _named(key: str, word: Word, known: Mapping[str, Sequence[str]], broken: Mapping[str, str]) -> Sequence[str]:
    if not isinstance(word, str):
        word = _read_as(key, word, [*known, *broken])
    if word in known:
        return known[word]
    if lost := next((name for name in broken if fnmatchcase(name, word) or word.startswith(f"{name}_")), None):
        raise UserError(broken[lost])  # a point of a sweep is named after its file
    matching = [names for other, names in known.items() if fnmatchcase(other, word)]
    if matching:
        return [name for names in matching for name in names]
    raise UserError(f"--config {key}: there is no {_WHAT[key]} '{word}'{_WHERE[key]}; {nearest(word, list(known))}")


def _read_as(key: str, value: Word, known: Iterable[str]) -> str:
    """Returns the one name that is read as a value which is no text."""
    names = [name for name in known if any(type(value) is type(way) and value == way for way in _readings(name))]
    if len(names) == 1:
        return names[0]
    which = f"could be {' or '.join(names)}" if names else f"is not the name of a {_WHAT[key]}"
    raise UserError(f'--config {key}: {value!r} {which}; put the name in quotes, as in {key}: ["{value}"].')


def _readings(name: str) -> list[Any]:
    """Returns what Snakemake and YAML make of a name."""
    found: list[Any] = []
    for read in (int, float, yaml.safe_load):
        try:
            found.append(read(name))
        except (ValueError, yaml.YAMLError):
            continue
    return found
