"""Distributions as they are written in YAML, `loguniform(0.1, 10)`, and what is drawn from them, the same everywhere.

    uniform(a, b)         any number from a to b
    loguniform(a, b)      the same of its logarithm, both above zero
    integer(a, b)         a whole number from a to b, both included
    choice(a, b, ...)     one of these words or numbers

A drawn number has four significant digits, so that a title and a table show it whole, unless that leads out of (a, b).
"""

import math
import re
from typing import Annotated, Any

import numpy as np
import yaml
from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from reidablate.rng import generator
from reidablate.sections import Section, nearest

KINDS = ("uniform", "loguniform", "integer", "choice")
_WRITTEN = re.compile(r"\s*([a-z]+)\s*\((.*)\)\s*", re.DOTALL)
_POWER = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")
_DIGITS = 4
_MOST = 2**62


def parse(written: str) -> tuple[str, list[Any]]:
    """Returns the kind and the arguments of a distribution.

    Raises:
        ValueError: With what is expected instead.
    """
    found = _WRITTEN.fullmatch(written)
    kind, inside = found.groups() if found else ("", "")
    if kind not in KINDS:
        hint = f"; {nearest(kind, list(KINDS))}" if kind else ""
        raise ValueError(f"a distribution such as loguniform(0.1, 10){hint}")
    try:
        values = [_number(value) for value in yaml.safe_load(f"[{inside}]")]
    except (yaml.YAMLError, ValueError):
        values = []
    if kind == "choice":
        if not values or not all(isinstance(value, str | int | float) for value in values):
            raise ValueError("choice(a, b, ...) of words or numbers")
        return kind, values
    number = int if kind == "integer" else (int, float)
    if len(values) != 2 or not all(isinstance(v, number) and not isinstance(v, bool) for v in values):
        raise ValueError(f"{kind}(a, b) with two {'whole ' * (kind == 'integer')}numbers")
    low, high = values
    if not -_MOST < low < high < _MOST or (kind == "loguniform" and low <= 0):
        raise ValueError(f"{kind}(a, b) with a below b{', both above zero' * (kind == 'loguniform')}")
    return kind, values


def _number(value: Any) -> Any:
    """Returns a value with `1e-4`, which has no point and so is a word to YAML, as the number that it is."""
    return float(value) if isinstance(value, str) and _POWER.fullmatch(value) else value


def draw(written: str, rng: np.random.Generator) -> Any:
    """Returns a value drawn from a distribution, a plain number or word."""
    kind, values = parse(written)
    if kind == "choice":
        return values[int(rng.integers(len(values)))]
    low, high = values
    if kind == "integer":
        return int(rng.integers(low, high + 1))
    drawn = rng.uniform(low, high) if kind == "uniform" else math.exp(rng.uniform(math.log(low), math.log(high)))
    rounded = float(f"{drawn:.{_DIGITS}g}")
    return rounded if low <= rounded <= high else float(drawn)


def _checked(written: Any) -> Any:
    parse(written if isinstance(written, str) else "")
    return written


Distribution = Annotated[str, BeforeValidator(_checked)]


class Sampled(Section):
    """`sample` of a cell file: a distribution for each option, and how many configurations are drawn.

    The values of an option come from a stream of their own, named by file and option, and their order. More draws, or
    another option, leave those that are there as they are.

    Attributes:
        n: Configurations that are drawn.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Distribution]

    n: Annotated[int, Field(ge=1)]

    @model_validator(mode="after")
    def _some(self) -> "Sampled":
        if not self.options:
            raise ValueError("name an option with its distribution, such as train.lr_factor: loguniform(0.3, 3).")
        return self

    @property
    def options(self) -> dict[str, str]:
        """The distribution of each option."""
        return dict(self.__pydantic_extra__)

    def draw(self, name: str) -> list[dict[str, Any]]:
        """Returns the value of every option in each drawn configuration of a file's cell."""
        streams = {option: generator(0, f"sample/{name}/{option}") for option in self.options}
        return [{option: draw(self.options[option], rng) for option, rng in streams.items()} for _ in range(self.n)]
