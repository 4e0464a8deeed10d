"""Nested mappings of options: read from YAML, laid over each other, compared."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from reidablate.errors import UserError, check_file, reading, shortened

MOST_BYTES = 2**18  # PyYAML reads about 100 kB a second
MOST_VALUES = 20_000  # a few lines of anchors in anchors stand for billions
_LONGEST_CALL = 1000  # letters
_CALL = re.compile(r"[a-z]+\([^()\n]*\)(?=\s*[,}\]])")
_TAG = "tag:yaml.org,2002:"
_PLAIN = {"null", "bool", "int", "float", "str"}


def load_yaml(path: Path, *, may_be_empty: bool = False) -> dict[str, Any]:
    """Returns the mapping in a YAML file, refusing a key that stands twice.

    Values are text, numbers, true and false, null, lists and mappings; a date is the text it is written as. Anchors and
    merge keys (`<<: *name`) work.

    Args:
        path: The file.
        may_be_empty: A file without any key, as when all lines are comments, is an empty mapping.

    Raises:
        UserError: The file is missing, cannot be read, is not YAML, or does not hold a mapping.
    """
    with reading(path, "YAML", remedy="correct it", missing="create it or correct the name"):
        check_file(path, most_bytes=MOST_BYTES)
        text = path.read_text(encoding="utf-8")
        try:
            data = _constructed(text)
        except yaml.YAMLError as error:
            problem = shortened(error).replace('"<unicode string>", ', "")
            raise UserError(f"{path} is not valid YAML: {problem}; correct the line.") from None
        except RecursionError:
            raise UserError(f"{path} is nested too deeply; write the options flat, as the other files do.") from None
    if data is None and may_be_empty:
        return {}
    if not isinstance(data, dict):
        raise UserError(f"{path} should hold 'key: value' lines but holds a {type(data).__name__}; write some.")
    return data


def _constructed(text: str) -> Any:
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return None
        _check(loader, root, sizes={})
        return loader.construct_document(root)
    finally:
        loader.dispose()


def yaml_files(folder: Path) -> list[Path]:
    """Returns the YAML files of a folder by name, in either spelling; hidden ones are an editor's and left out."""
    return sorted(
        path for path in folder.iterdir() if path.suffix.lower() in {".yaml", ".yml"} and not path.name.startswith(".")
    )


class _Loader(yaml.SafeLoader):
    """A safe loader that knows what options are made of and nothing else: dates stay text.

    Within braces, `{lr_factor: uniform(1, 2)}` is one value and not two, as YAML would have it.
    """

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in known if tag.removeprefix(_TAG) in {*_PLAIN, "merge"}]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def scan_plain(self) -> yaml.ScalarToken:
        """Returns the next word without quotes."""
        call = _CALL.match(self.prefix(_LONGEST_CALL)) if self.flow_level else None
        if call is None:
            return super().scan_plain()
        start = self.get_mark()
        self.forward(call.end())
        self.allow_simple_key = False
        return yaml.ScalarToken(call.group(), True, start, self.get_mark())


def _check(loader: _Loader, node: yaml.Node, sizes: dict[int, int | None]) -> int:
    """Returns how many values a node stands for, its anchors written out.

    A shared node is looked at once, so this takes no longer than the file is long.

    Raises:
        YAMLError: A key stands twice or is no word, an anchor holds itself, a value is none, or there are too many.
    """
    if id(node) in sizes:
        known = sizes[id(node)]
        if known is None:
            raise _refused(node, "an anchor that holds itself")
        return known
    sizes[id(node)] = None
    kind = node.tag.removeprefix(_TAG)
    if isinstance(node, yaml.ScalarNode):
        size = _check_scalar(loader, node, kind)
    elif isinstance(node, yaml.SequenceNode) and kind == "seq":
        size = 1 + sum(_check(loader, item, sizes) for item in node.value)
    elif isinstance(node, yaml.MappingNode) and kind == "map":
        _check_keys(node)
        size = 1 + sum(_check(loader, part, sizes) for pair in node.value for part in pair)
    else:
        raise _refused(node, f"a value of the type {node.tag}, which no option has")
    if size > MOST_VALUES:
        raise _refused(node, f"more than {MOST_VALUES} values, with anchors written out")
    sizes[id(node)] = size
    return size


def _check_scalar(loader: _Loader, node: yaml.ScalarNode, kind: str) -> int:
    if kind == "merge":
        return 1
    if kind not in _PLAIN:
        raise _refused(node, f"a value of the type {node.tag}, which no option has")
    try:
        value = loader.construct_object(node)
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise ValueError("a number beyond 64 bits")
        node.value.encode()
    except UnicodeEncodeError:
        raise _refused(node, "half of a surrogate pair, which is no letter") from None
    except (ValueError, KeyError, AttributeError, IndexError):
        raise _refused(node, f"'{shortened(node.value, 40)}', which cannot be read as {kind}") from None
    return 1


def _check_keys(node: yaml.MappingNode) -> None:
    seen: set[str] = set()
    for key, _ in node.value:
        kind = key.tag.removeprefix(_TAG)
        if not isinstance(key, yaml.ScalarNode) or kind not in {"str", "merge"}:
            shown = shortened(key.value, 40) if isinstance(key, yaml.ScalarNode) else "a list or mapping"
            raise _refused(key, f"key {shown}, which is no word; quote it if it is meant as one")
        if key.value in seen:
            raise _refused(key, f"key '{shortened(key.value, 80)}' stands twice")
        seen.add(key.value)


def _refused(node: yaml.Node, problem: str) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


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


def nested(dotted: str, value: Any) -> dict[str, Any]:
    """Returns `{"a": {"b": value}}` for the key `a.b`."""
    for part in reversed(dotted.split(".")):
        value = {part: value}
    return dict(value)


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
