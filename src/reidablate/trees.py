"""Nested mappings of options: read from YAML, laid over each other, compared."""

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml

from reidablate.errors import UserError


def load_yaml(path: Path, *, may_be_empty: bool = False) -> dict[str, Any]:
    """Returns the mapping in a YAML file, refusing a key that stands twice.

    Args:
        path: The file.
        may_be_empty: A file without any key, as when all lines are comments, is an empty mapping.

    Raises:
        UserError: The file is missing, cannot be read, is not YAML, or does not hold a mapping.
    """
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; create it or correct the name.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; give a file that you may read.") from None
    except RecursionError:
        raise UserError(f"{path} is nested too deeply; write the options flat, as the other files do.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        problem = " ".join(str(error).split()).replace('"<unicode string>", ', "")
        raise UserError(f"{path} is not valid YAML: {problem}; correct the line.") from None
    if data is None and may_be_empty:
        return {}
    if not isinstance(data, dict):
        raise UserError(f"{path} should hold 'key: value' lines but holds a {type(data).__name__}; write some.")
    return data


def yaml_files(folder: Path) -> list[Path]:
    """Returns the YAML files of a folder by name, in either spelling; hidden ones are an editor's and left out."""
    return sorted(
        path for path in folder.iterdir() if path.suffix.lower() in {".yaml", ".yml"} and not path.name.startswith(".")
    )


class _UniqueKeyLoader(yaml.SafeLoader):
    """A safe loader for which a repeated key is an error rather than a silent replacement."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(None, None, f"key {key} is no word", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key '{key}' stands twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `base` with `over` laid on it: mappings merge key by key, everything else replaces."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(value, Mapping) and isinstance(below, Mapping) else value
    return merged


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns a nested mapping as `{dotted key: leaf}`."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def difference(base: Mapping[str, Any], other: Mapping[str, Any], prefix: str = "") -> dict[str, list[Any]]:
    """Returns `{dotted key: [value in base, value in other]}` for every key that differs.

    A section that only one side has is one entry, its options on that side and None on the other.
    """
    found: dict[str, list[Any]] = {}
    for key in sorted(base.keys() | other.keys()):
        left, right = base.get(key), other.get(key)
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            found |= difference(left, right, f"{prefix}{key}.")
        elif left != right:
            found[f"{prefix}{key}"] = [left, right]
    return found
