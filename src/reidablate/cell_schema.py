"""The JSON Schema of a cell file, for editors; it knows the options of every loss that can be named."""

import inspect
from collections.abc import Iterator
from typing import Any

from reidablate import plugins
from reidablate.cell_files import PRESET_ONLY, SECTIONS, CellFile
from reidablate.config import LossOptions, RunConfig, Section
from reidablate.errors import UserError


def cell_schema() -> tuple[dict[str, Any], list[str]]:
    """Returns a JSON Schema of the cell file, in which every option is optional, and why losses are not in it.

    It knows the losses that ship, those of installed packages and those of the study around the working directory.
    """
    schema = CellFile.model_json_schema()
    options = RunConfig.model_json_schema()
    definitions = {**schema.get("$defs", {}), **options["$defs"]}
    for definition in definitions.values():
        definition.pop("required", None)
    for dotted in PRESET_ONLY:
        section, option = dotted.split(".")
        definitions[f"{section.title()}Config"]["properties"].pop(option)
    definitions["ModelConfig"]["properties"].pop("backbone_code")
    losses, none = definitions["LossesConfig"], {"const": "none"}
    for key, value in losses["properties"].items():
        losses["properties"][key] = {"anyOf": [*value["anyOf"], none]}
    known, refused = _known_losses()
    for model in known.values():
        definitions |= model.model_json_schema().get("$defs", {})
    losses["additionalProperties"] = {"anyOf": [none, *_uses(definitions.pop("LossUse"), known)]}
    for section in SECTIONS:
        schema["properties"][section] = options["properties"][section]
    schema["$defs"] = definitions
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "reidablate ablation cell"
    return schema, refused


def _uses(section: dict[str, Any], known: dict[str, type[Section]]) -> Iterator[dict[str, Any]]:
    """Yields the schema of a section for each known loss, and of one that names another."""
    common = {name: section["properties"][name] for name in ("lr_factor",)}
    for name, model in known.items():
        own = model.model_json_schema()
        properties = {"use": {"const": name}, **common, **own["properties"]}
        shown = {key: own[key] for key in ("description",) if key in own}
        yield {**shown, "type": "object", "properties": properties, "required": ["use"], "additionalProperties": False}
    other = {"type": "string", "not": {"enum": list(known)}}
    yield {"type": "object", "properties": {"use": other, **common}, "required": ["use"]}


def _known_losses() -> tuple[dict[str, type[Section]], list[str]]:
    """Returns the options of every loss by its name, and why others are left out."""
    found: dict[str, type[Section]] = {}
    refused = []
    for name in (*plugins.SHIPPED["losses"], *plugins.offered("losses")):
        try:
            found[name] = plugins.options_model(plugins.find("losses", name), LossOptions)
        except UserError as error:
            refused.append(str(error))
    for file in plugins.own_files():
        try:
            found |= {name: model for name, model in _losses_in(file.stem)}
        except UserError as error:
            refused.append(str(error))
    return found, refused


def _losses_in(module: str) -> Iterator[tuple[str, type[Section]]]:
    """Yields name and options of every loss of a file of `methods/`: what has a parameter `options` for it."""
    for word, made in plugins.members(module):
        target = made.__init__ if inspect.isclass(made) else made
        if "options" in getattr(target, "__annotations__", {}):
            name = f"{module}:{word}"
            try:
                yield name, plugins.options_model(plugins.find("losses", name), LossOptions)
            except UserError:
                continue  # options of another kind of plug-in
