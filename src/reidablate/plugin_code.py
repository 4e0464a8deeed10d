"""What a plug-in is made of: a hash of its sources, or name and version of the package that it is installed from."""

import ast
import hashlib
import importlib.metadata
import json
import sys
import types
from functools import cache
from pathlib import Path

from reidablate.errors import UserError, shortened
from reidablate.provenance import PACKAGE, syntax

FOLDER = "methods"


def file_of(folder: Path, module: str) -> Path | None:
    """Returns the file of a module below a folder, None where there is none.

    Raises:
        UserError: Both a file and a folder have its name.
    """
    base = folder.joinpath(*module.split("."))
    found = [path for path in (base.with_name(f"{base.name}.py"), base / "__init__.py") if path.is_file()]
    if len(found) > 1:
        raise UserError(f"{shown(found[0])} and {shown(found[1])} are modules of one name; rename one.")
    return found[0] if found else None


def code_of(folder: Path, module: str) -> str:
    """Returns a hash of the syntax of a module of `methods/` and of all that it imports from there."""
    digest = hashlib.sha256()
    waiting, seen = [module], dict[str, str]()
    while waiting:
        name = waiting.pop()
        file = file_of(folder, name)
        if name in seen or file is None:
            continue
        seen[name] = _syntax_of(file)
        waiting += _imports(file.read_text(encoding="utf-8"), name, is_package=file.name == "__init__.py")
    for name, text in sorted(seen.items()):
        digest.update(f"{name}\0{text}\0".encode())
    return digest.hexdigest()[:16]


@cache
def _distributions() -> dict[str, list[str]]:
    return dict(importlib.metadata.packages_distributions())


def version_of(module: types.ModuleType, made: object) -> str | None:
    """Returns name and version of the package that something is installed from, None for this one.

    What ships and only hands on to another package names it in its attribute `package`. A package whose files can be
    edited where they are, installed in place or only on the path, is known by its sources.
    """
    top = module.__name__.split(".")[0]
    if top == PACKAGE.name:
        package = getattr(made, "package", None)
        return None if package is None else f"{package} {_installed_version(package)}"
    for name in _distributions().get(top, []):
        if not _is_in_place(name):
            return f"{name} {importlib.metadata.version(name)}"
    return _sources(Path(str(sys.modules[top].__file__)))


def _is_in_place(distribution: str) -> bool:
    origin = importlib.metadata.distribution(distribution).read_text("direct_url.json")
    return bool(origin and json.loads(origin).get("dir_info", {}).get("editable"))


def _sources(file: Path) -> str:
    """Returns a hash of the syntax of a module, or of every module of a package."""
    folder = file.parent
    files = sorted(folder.rglob("*.py")) if file.name == "__init__.py" else [file]
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(folder).as_posix()}\0{_syntax_of(path)}\0".encode())
    return digest.hexdigest()[:16]


def _installed_version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        raise UserError(f"{package} is not installed; run: pip install {package}") from None


def _imports(source: str, module: str, *, is_package: bool) -> list[str]:
    """Returns the names below `methods` that a module may import, and the packages that they lie in."""
    inside = module.split(".") if is_package else module.split(".")[:-1]
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name.split(".")[1:] for alias in node.names if alias.name.split(".")[0] == FOLDER]
        elif isinstance(node, ast.ImportFrom):
            words = node.module.split(".") if node.module else []
            if node.level:
                base = inside[: len(inside) - node.level + 1] + words
            elif words[:1] == [FOLDER]:
                base = words[1:]
            else:
                continue
            found += [base, *([*base, alias.name] for alias in node.names)]
    return [".".join(parts[:length]) for parts in found for length in range(1, len(parts) + 1)]


def _syntax_of(file: Path) -> str:
    try:
        return syntax(file.read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise UserError(f"{shown(file)}, line {error.lineno}: {error.msg}; correct the line.") from None
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(f"{shown(file)} cannot be read as Python ({shortened(error)}); correct it.") from None


def shown(file: object) -> str:
    """Returns a path as a message shows it: from the working directory where it lies below."""
    path = Path(str(file))
    return str(path.relative_to(Path().absolute()) if path.is_relative_to(Path().absolute()) else path)
