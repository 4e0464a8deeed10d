"""Plug-ins: functions and classes of a study's `methods/` folder or of an installed package, found by name.

What ships with this package is found in the same way. A name is `module:name`, where the module is a file of
`methods/` or an installed module; a word alone is something that ships, or an entry point of the group
`reidablate.losses`, `reidablate.backbones`, `reidablate.metrics` or `reidablate.formats`.

Files of `methods/` are imported as the package `methods`, and import each other as `from methods.other import name` or
`from .other import name`. Nothing else of a study is ever imported: no weights, no results.
"""

import importlib
import importlib.metadata
import importlib.util
import inspect
import sys
import traceback
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from typing import Any, Literal, get_type_hints

from reidablate import places
from reidablate.errors import UserError, out_of_memory, shortened
from reidablate.plugin_code import FOLDER, code_of, file_of, shown, version_of
from reidablate.provenance import PACKAGE
from reidablate.sections import Section, nearest

Kind = Literal["losses", "backbones", "parts", "local_features", "metrics", "formats"]
SHIPPED: dict[Kind, dict[str, str]] = {
    "losses": {
        "identity": "reidablate.losses.identity:identity",
        "triplet": "reidablate.losses.triplet:triplet",
        "weighted_triplet": "reidablate.losses.weighted_triplet:weighted_triplet",
        "position_relation": "reidablate.losses.position_relation:position_relation",
        "position_triplet": "reidablate.losses.position_triplet:position_triplet",
        "pml": "reidablate.losses.pml:Pml",
        "l2_softmax": "reidablate.losses.l2_softmax:l2_softmax",
        "patch_triplet": "reidablate.losses.patch_triplet:patch_triplet",
        "element_weighted": "reidablate.losses.element_weighted:element_weighted",
        "four_weight": "reidablate.losses.four_weight:four_weight",
        "weighted_branch": "reidablate.losses.branches:WeightedBranch",
        "cross_attention_triplet": "reidablate.losses.branches:CrossAttentionTriplet",
        "local_identity": "reidablate.losses.local_losses:local_identity",
        "local_triplet": "reidablate.losses.local_losses:local_triplet",
    },
    "backbones": {
        "vit_base": "reidablate.models.vit:VisionTransformer",
        "vit_small": "reidablate.models.vit:VisionTransformer",
        "vit_quickstart": "reidablate.models.vit:VisionTransformer",
        "timm": "reidablate.models.timm_backbone:TimmBackbone",
    },
    "parts": {
        "conditional_position": "reidablate.models.conditional_position:ConditionalPosition",
        "vertical_windows": "reidablate.models.vertical_windows:VerticalWindows",
        "untied_position": "reidablate.models.untied_position:UntiedPosition",
        "camera_embedding": "reidablate.models.camera_embedding:CameraEmbedding",
    },
    "local_features": {
        "jigsaw": "reidablate.models.jigsaw:Jigsaw",
        "stripes": "reidablate.models.stripes:Stripes",
    },
    "metrics": {},
    "formats": {},
}
_inside: ContextVar[Path] = ContextVar("inside", default=Path())


@dataclass(frozen=True)
class Plugin:
    """A plug-in, imported.

    Attributes:
        name: As a YAML file writes it.
        made: The function or class.
        where: File and line of its definition.
        code: What made it: a hash of its file in `methods/` and of those that it imports from there, name and version
            of an installed package; None for what ships.
    """

    name: str
    made: Any
    where: str
    code: str | None


@contextmanager
def study_around(path: Path) -> Iterator[None]:
    """Looks for plug-ins in the study that a path lies in; elsewhere in the one around the working directory."""
    token = _inside.set(path)
    try:
        yield
    finally:
        _inside.reset(token)


def methods_folder() -> Path:
    """Returns the folder of the study's own plug-ins, which need not be there."""
    return places.study_of(_inside.get()) / FOLDER


def find(kind: Kind, name: str) -> Plugin:
    """Returns a plug-in by its name in a YAML file.

    Raises:
        UserError: There is none, or its file cannot be imported; the sentence names file and line.
    """
    if ":" in name:
        return _imported(name, *name.split(":", 1))
    if target := SHIPPED[kind].get(name):
        return _imported(name, *target.split(":"))
    points = _entry_points(kind)
    if name in points:
        return _imported(name, *_target(points[name]))
    known = [*SHIPPED[kind], *points]
    raise UserError(
        f"there is nothing named '{name}' in {kind}; {nearest(name, known)} "
        f"Write FILE:NAME for something of the folder {FOLDER}/ or of an installed module."
    )


def options_model(plugin: Plugin, base: type[Section]) -> type[Section]:
    """Returns the model of a plug-in's options: the annotation of its parameter `options`.

    Raises:
        UserError: It has no such parameter, or one of another kind than `base`.
    """
    made = plugin.made.__init__ if inspect.isclass(plugin.made) else plugin.made
    try:
        hints = get_type_hints(made)
    except Exception as error:
        raise UserError(f"{plugin.where}: an annotation of '{plugin.name}' is unknown ({shortened(error)}).") from None
    model = hints.get("options")
    if not (inspect.isclass(model) and issubclass(model, base)):
        raise UserError(
            f"{plugin.where}: '{plugin.name}' needs a parameter 'options' annotated with {base.__name__} or a class "
            "derived from it."
        )
    return model


def check_unchanged(plugin: Plugin, planned: str | None) -> None:
    """Checks that a plug-in is still what the plan was made with.

    Raises:
        UserError: It was edited or upgraded since.
    """
    if plugin.code != planned:
        raise UserError(
            f"{plugin.where}: '{plugin.name}' was changed since this was planned ({planned} -> {plugin.code}); "
            "run snakemake again."
        )


@contextmanager
def running(doing: str, *used: Plugin) -> Iterator[None]:
    """Makes one sentence, with file and line, of whatever plug-ins raise.

    An error that no line of theirs has raised, as in a backward pass, names all of them and leaves its traceback on the
    standard error.

    Args:
        doing: What the block does, in words.
        used: The plug-ins that take part.

    Raises:
        UserError: The block raised anything but a `UserError` and what a caller must see as it is (the end of the
            memory, a signal). Errors of what ships with this package are faults of its code and pass too.
    """
    try:
        yield
    except (UserError, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        own = [plugin for plugin in used if plugin.code is not None]
        if not own or out_of_memory(error):
            raise
        place = next((line for plugin in own if (line := _line_in(error, _root_of(plugin.made)))), None)
        if place is None:
            traceback.print_exception(error)
            place = "; ".join(plugin.where for plugin in own)
        why = shortened(error).rstrip(".")
        raise UserError(f"{place}: {doing} failed: {type(error).__name__}: {why}.") from error


def _entry_points(kind: Kind) -> dict[str, list[importlib.metadata.EntryPoint]]:
    found: dict[str, list[importlib.metadata.EntryPoint]] = {}
    for point in importlib.metadata.entry_points(group=f"reidablate.{kind}"):
        found.setdefault(point.name, []).append(point)
    return found


def offered(kind: Kind) -> list[str]:
    """Returns the names that installed packages offer as entry points, and nothing that ships."""
    return [name for name in _entry_points(kind) if name not in SHIPPED[kind]]


def _target(points: Sequence[importlib.metadata.EntryPoint]) -> tuple[str, str]:
    """Returns module and attribute of the one entry point of a name."""
    point, values = points[0], sorted({point.value for point in points})
    if len(values) > 1:
        raise UserError(f"'{point.name}' is offered twice ({' and '.join(values)}); write MODULE:NAME of one of them.")
    if not point.attr:
        raise UserError(f"'{point.name}' stands for the module {point.module} and nothing in it; write MODULE:NAME.")
    return point.module, point.attr


def own_files() -> list[Path]:
    """Returns the files of the study's `methods/` folder that can be named in a YAML file, by name."""
    folder = methods_folder()
    found = sorted(folder.glob("*.py")) if folder.is_dir() else []
    return [path for path in found if path.stem.isidentifier() and not path.stem.startswith("test_")]


def members(module: str) -> list[tuple[str, Any]]:
    """Returns name and object of every public function and class that a file of `methods/` defines.

    Raises:
        UserError: There is no such file or it cannot be imported.
    """
    found = _own_module(module)
    if found is None:
        raise UserError(f"there is no {methods_folder() / module}.py; correct the name.")
    inside = f"{FOLDER}.{module}"
    return [
        (word, made)
        for word, made in vars(found[0]).items()
        if not word.startswith("_") and callable(made) and getattr(made, "__module__", None) == inside
    ]


def _imported(name: str, module: str, attribute: str) -> Plugin:
    if not all(part.isidentifier() for part in (*module.split("."), *attribute.split("."))):
        raise UserError(f"'{name}' is no name of a plug-in; write FILE:NAME, such as circle:CircleLoss.")
    found, code = _own_module(module) or (_installed_module(name, module), None)
    if getattr(found, "__file__", None) is None:
        raise UserError(f"'{name}': the module {module} has no source file; name a function of another.")
    made: Any = found
    for part in attribute.split("."):
        if not hasattr(made, part):
            public = [word for word in vars(found) if not word.startswith("_")]
            raise UserError(f"{shown(found.__file__)} holds no '{attribute}'; {nearest(attribute, public)}")
        made = getattr(made, part)
    if not callable(made):
        raise UserError(
            f"{shown(found.__file__)}: '{attribute}' is of type {type(made).__name__}, not a function or class."
        )
    return Plugin(name, made, _where(made, found), code if code is not None else version_of(found, made))


def _own_module(module: str) -> tuple[types.ModuleType, str] | None:
    """Returns a module of `methods/` with the hash of its sources; None where the folder has no such file."""
    folder = methods_folder()
    if file_of(folder, module) is None:
        return None
    code = code_of(folder, module)
    _open_package(folder, code, module)
    try:
        return importlib.import_module(f"{FOLDER}.{module}"), code
    except (Exception, SystemExit) as error:
        raise UserError(_why_not_imported(error, folder, module)) from None


def _installed_module(name: str, module: str) -> types.ModuleType:
    try:
        _refuse_strays(name, module.split(".")[0])
        return importlib.import_module(module)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{module}.".startswith(f"{error.name}."):
            raise UserError(
                f"'{name}': there is no {methods_folder() / module.replace('.', '/')}.py and no installed module "
                f"'{module}'; correct the name, or write the file."
            ) from None
        if module.startswith(f"{PACKAGE.name}.") and not isinstance(error, ImportError):
            raise
        raise UserError(f"'{name}': module '{module}' cannot be imported: {shortened(error)}.") from None


def _refuse_strays(name: str, top: str) -> None:
    """Refuses a module that lies in the study, outside `methods/`, and is not installed there either."""
    spec = importlib.util.find_spec(top) if top != PACKAGE.name else None
    file = Path(spec.origin) if spec and spec.origin else Path()
    study = methods_folder().parent.absolute()
    if file.is_relative_to(study) and not {"site-packages", "dist-packages"} & {*file.parts}:
        raise UserError(f"'{name}': {shown(file)} is not installed; move it to {FOLDER}/ to use it.")


def _why_not_imported(error: BaseException, folder: Path, module: str) -> str:
    file = file_of(folder, module)
    if isinstance(error, SyntaxError) and error.filename:
        return f"{shown(error.filename)}, line {error.lineno}: {error.msg}; correct the line."
    place = _line_in(error, folder) or shown(file)
    if isinstance(error, ModuleNotFoundError) and error.name and file_of(folder, error.name):
        return f"{place}: a file of {FOLDER}/ is imported as 'from {FOLDER}.{error.name} import ...'; write it so."
    return f"{place}: the import failed: {type(error).__name__}: {shortened(error)}."


class _FreshLoader(SourceFileLoader):
    """Compiles the source every time: bytecode that Python keeps may be older than an edit of the same second."""

    def get_code(self, fullname: str) -> types.CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


class _Finder:
    """Finds the modules of the package `methods`."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None, target: object = None) -> ModuleSpec | None:
        """Returns where a module of `methods` is loaded from, None for any other (`importlib.abc.MetaPathFinder`)."""
        if not name.startswith(f"{FOLDER}.") or FOLDER not in sys.modules:
            return None
        folder = Path(sys.modules[FOLDER].__path__[0])
        file = file_of(folder, name.removeprefix(f"{FOLDER}."))
        if file is None:
            return None
        inside = [str(file.parent)] if file.name == "__init__.py" else None
        loader = _FreshLoader(name, str(file))
        return importlib.util.spec_from_file_location(name, file, loader=loader, submodule_search_locations=inside)


_imported_as: dict[str, str] = {}  # hash of the sources of each module of `methods` that is imported


def _open_package(folder: Path, code: str, module: str) -> None:
    """Makes the package `methods` that of a folder, without modules that were imported before an edit."""
    place = str(folder.absolute())
    held = sys.modules.get(FOLDER)
    if held is None or list(held.__path__) != [place] or _imported_as.get(module, code) != code:
        for name in [name for name in sys.modules if name == FOLDER or name.startswith(f"{FOLDER}.")]:
            del sys.modules[name]
        _imported_as.clear()
        package = types.ModuleType(FOLDER)
        package.__path__ = [place]
        sys.modules[FOLDER] = package
    if _Finder not in sys.meta_path:
        sys.meta_path.insert(0, _Finder)
    _imported_as[module] = code


def _where(made: Any, module: types.ModuleType) -> str:
    try:
        return f"{shown(inspect.getsourcefile(made))}, line {inspect.getsourcelines(made)[1]}"
    except (TypeError, OSError):
        return shown(module.__file__)


def _root_of(made: Callable[..., Any]) -> Path:
    try:
        file = Path(str(inspect.getsourcefile(made)))
    except TypeError:
        return Path()
    folder = methods_folder().absolute()
    return folder if file.is_relative_to(folder) else file.parent


def _line_in(error: BaseException, folder: Path) -> str | None:
    """Returns file and line of the innermost frame of an error that lies in a folder."""
    frames = traceback.extract_tb(error.__traceback__)
    inside = [frame for frame in frames if Path(frame.filename).is_relative_to(folder.absolute())]
    return f"{shown(inside[-1].filename)}, line {inside[-1].lineno}" if inside else None
