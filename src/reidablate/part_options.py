"""The options of what ships and changes a network: parts of the transformer, and features of parts of an image."""

from collections.abc import Mapping
from typing import Any

from pydantic import ConfigDict, model_validator

from reidablate import plugins
from reidablate.errors import UserError
from reidablate.sections import Section, nearest, validate


class PartsConfig(Section):
    """Parts of the transformer that ship, by name, each with its options."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, data: Any) -> Any:
        """Fills in the options of each part."""
        if not isinstance(data, dict):
            return data
        known = plugins.SHIPPED["parts"]
        for name in data:
            if name not in known:
                raise UserError(f"unknown key 'model.parts.{name}'; {nearest(name, list(known))}")
        return {name: _complete("parts", name, options, f"model.parts.{name}") for name, options in data.items()}

    @property
    def options(self) -> dict[str, dict[str, Any]]:
        """The options of each part, complete."""
        return dict(self.model_extra or {})

    @property
    def read_cameras(self) -> bool:
        """Whether one of the parts reads the camera of an image, in training and at test time."""
        return any(plugins.find("parts", name).made.reads_cameras for name in self.options)


class LocalFeaturesConfig(Section):
    """Features of parts of an image that ship: which ones, under `use`, and their options beside it.

    Attributes:
        use: `jigsaw` (He et al. 2021, TransReID's JPM) or `stripes` (Sun et al. 2018, PCB).
    """

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    use: str

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, data: Any) -> Any:
        """Fills in the options."""
        if not isinstance(data, Mapping) or not isinstance(name := data.get("use"), str):
            return data
        known = plugins.SHIPPED["local_features"]
        if name not in known:
            raise UserError(f"model.local_features: there is no '{name}' to use; {nearest(name, list(known))}")
        own = {key: value for key, value in data.items() if key != "use"}
        return {"use": name, **_complete("local_features", name, own, "model.local_features")}

    @property
    def options(self) -> dict[str, Any]:
        """Their own options, complete."""
        return dict(self.model_extra or {})


def _complete(kind: plugins.Kind, name: str, options: Any, where: str) -> dict[str, Any]:
    model = plugins.options_model(plugins.find(kind, name), Section)
    return validate(model, options, where=where).model_dump(mode="json")
