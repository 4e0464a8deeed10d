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
    _complete_parts(definitions)
    known, refused = _known_losses()
    for model in known.values():
        definitions |= model.model_json_schema().get("$defs", {})
    uses = _uses(definitions.pop("LossUse"), known)
    definitions["LossesConfig"]["additionalProperties"] = {"anyOf": [{"const": "none"}, *uses]}
    for section in SECTIONS:
        schema["properties"][section] = options["properties"][section]
    schema["$defs"] = definitions
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "reidablate ablation cell"
    return schema, refused


def _uses(section: dict[str, Any], known: dict[str, type[Section]]) -> Iterator[dict[str, Any]]:
    """Yields the schema of a section for each known loss, and of one that names another."""
    words = section["properties"]["use"]["description"]
    common = {name: section["properties"][name] for name in ("lr_factor",)}
    for name, model in known.items():
        own = model.model_json_schema()
        properties = {"use": {"const": name, "description": words}, **common, **own["properties"]}
        shown = {key: own[key] for key in ("description",) if key in own}
        yield {**shown, "type": "object", "properties": properties, "required": ["use"], "additionalProperties": False}
    other = {"type": "string", "not": {"enum": list(known)}, "description": words}
    yield {"type": "object", "properties": {"use": other, **common}, "required": ["use"]}


def _complete_parts(definitions: dict[str, Any]) -> None:
    """Adds the options of the parts and local features that ship to their sections."""
    parts = {name: _shipped("parts", name) for name in plugins.SHIPPED["parts"]}
    definitions["PartsConfig"] |= {"properties": parts, "additionalProperties": False}
    local = definitions["LocalFeaturesConfig"]
    words = local["properties"]["use"]["description"]
    local["anyOf"] = [_shipped("local_features", name) for name in plugins.SHIPPED["local_features"]]
    for name, own in zip(plugins.SHIPPED["local_features"], local["anyOf"], strict=True):
        own["properties"]["use"] = {"const": name, "description": words}
        own["required"] = ["use"]


def _shipped(kind: plugins.Kind, name: str) -> dict[str, Any]:
    """Returns the schema of the options of a part or local feature, described by what it does."""
    plugin = plugins.find(kind, name)
    summary = " ".join(inspect.cleandoc(plugin.made.__doc__ or "").partition("\n\n")[0].split())
    return {**plugins.options_model(plugin, Section).model_json_schema(), "description": summary}


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
