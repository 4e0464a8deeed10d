"""The loss of a run: every term that its configuration names, and their weighted sum.

Legend: D feature, C classes.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from reidablate import plugins
from reidablate.config import LossesConfig, LossOptions
from reidablate.errors import UserError
from reidablate.loss_options import RESERVED
from reidablate.losses.batch import Batch, Loss
from reidablate.rng import seed_globals, seed_int


@dataclass(frozen=True)
class Shape:
    """What a loss with parameters of its own has to know when it is made."""

    num_classes: int
    """C, the training identities."""
    width: int
    """D, of the feature."""


@dataclass(frozen=True)
class _Term:
    """A section of `losses`, ready to be called."""

    name: str
    plugin: plugins.Plugin
    options: LossOptions
    loss: Loss | nn.Module
    lr_factor: float

    def of(self, batch: Batch) -> Any:
        if isinstance(self.loss, nn.Module):
            return self.loss(batch)
        return self.loss(batch, self.options)


class StudyLoss(nn.Module):
    """The weighted sum of the losses of a configuration; modules among them keep their parameters here."""

    def __init__(self, config: LossesConfig, shape: Shape, *, seed: int = 0) -> None:
        """Makes every loss.

        Args:
            config: Which losses, with which options.
            shape: What they are made for.
            seed: Parameters are drawn from a stream of the seed and the section's name.

        Raises:
            UserError: A loss cannot be imported, has other options, was changed since it was planned, or fails.
        """
        super().__init__()
        self.config = config
        self.terms = [
            _term(name, plugin, options, shape, seed=seed, lr_factor=section.lr_factor if section else 1.0)
            for name, plugin, options, section in config.loaded()
        ]
        for (_, section), term in zip(config.sections(), self.terms, strict=True):
            plugins.check_unchanged(term.plugin, getattr(section, "code", None))
        self.own = nn.ModuleDict({t.name: t.loss for t in self.terms if isinstance(t.loss, nn.Module)})
        self._checked = False

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the unweighted terms by name, and their weighted sum as `total`.

        A term has the name of its section in the configuration; where a loss returns several, their names follow it
        and they share its weight. Everything is computed in at least float32 with autocast off.

        Raises:
            UserError: A loss of the user's fails; or, in the first batch, one returns no scalar, NaN, or a name that
                is taken.
        """
        batch = batch.widened()
        total = batch.feature.new_zeros(())
        terms: dict[str, Tensor] = {}
        drawn = torch.initial_seed()  # of this step
        for term in self.terms:
            if term.plugin.code is not None:  # whatever the terms before it have drawn
                seed_globals(seed_int(drawn, f"losses.{term.name}"), cuda=total.is_cuda)
            with plugins.running(f"losses.{term.name}", term.plugin), torch.autocast(total.device.type, enabled=False):
                found = term.of(batch)
            named = {term.name: found} if not isinstance(found, Mapping) else dict(_behind(term.name, found))
            if not self._checked:
                _check(term, named, {*terms, *RESERVED}, batch.feature)
            terms |= named
            for value in named.values():
                total = total + term.options.weight * value
        if not self._checked and torch.is_grad_enabled() and not total.requires_grad:
            raise UserError("losses: no term depends on the network; let one return a value that has a gradient.")
        self._checked = True
        return terms | {"total": total}

    @property
    def used(self) -> list[plugins.Plugin]:
        """What made each loss."""
        return [term.plugin for term in self.terms]

    def parameter_groups(self) -> Iterator[tuple[str, float, list[nn.Parameter]]]:
        """Yields section name, learning-rate factor and parameters of every loss that has some."""
        for term in self.terms:
            own = list(term.loss.parameters()) if isinstance(term.loss, nn.Module) else []
            if trained := [parameter for parameter in own if parameter.requires_grad]:
                yield term.name, term.lr_factor, trained


def _term(
    name: str, plugin: plugins.Plugin, options: LossOptions, shape: Shape, *, seed: int, lr_factor: float
) -> _Term:
    if not inspect.isclass(plugin.made):
        return _Term(name, plugin, options, plugin.made, lr_factor)
    with plugins.running(f"losses.{name}", plugin), torch.random.fork_rng(devices=[]):
        seed_globals(seed_int(seed, f"init:losses.{name}"))
        make: Callable[..., object] = plugin.made
        made = make(options, shape)
    if not isinstance(made, nn.Module):
        raise UserError(f"{plugin.where}: '{plugin.name}' is a class but no torch.nn.Module; derive it from that.")
    return _Term(name, plugin, options, made, lr_factor)


def _behind(name: str, terms: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    for word, value in terms.items():
        yield f"{name}_{word}" if word else name, value


def _check(term: _Term, named: Mapping[str, Any], taken: set[str], feature: Tensor) -> None:
    """Refuses what is no set of terms. NaN of features that are not finite, or later, is a training that diverges."""
    where = f"{term.plugin.where}: losses.{term.name}"
    if not named:
        raise UserError(f"{where} returned no term; return a scalar tensor, or a mapping of names to scalar tensors.")
    for name, value in named.items():
        if not isinstance(value, Tensor) or value.shape != ():
            kind = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise UserError(f"{where} returned {kind} as '{name}'; return a scalar tensor, such as a mean.")
        if name in taken:
            raise UserError(f"{where} returned a term '{name}', a name that is taken; call it otherwise.")
        if term.plugin.code is not None and bool(value.detach().isnan()) and bool(feature.isfinite().all()):
            raise UserError(f"{where} returned NaN as '{name}' for the first batch; correct the loss.")
    constant = not any(value.requires_grad for value in named.values()) and any(bool(v != 0) for v in named.values())
    if constant and term.plugin.code is not None and torch.is_grad_enabled():
        raise UserError(f"{where} returned no value with a gradient, so it trains nothing; do not detach its result.")
