"""Sections of options: frozen, validated mappings, what each option means, and the sentences that explain a wrong one.

What an option means stands under `Attributes:` in the docstring of its section, and from there in the JSON Schema that
editors show. Docstrings are not part of any hash, so to reword one trains nothing again.
"""

import difflib
import inspect
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from reidablate.errors import UserError, shortened

T = TypeVar("T", bound=BaseModel)
MOST = 1_000_000  # of epochs, images of a batch, pixels and whatever else an option counts
# "    name: What it is," and lines indented below it, as in the section `Attributes:` of a docstring of Google's style.
_ATTRIBUTE = re.compile(r"^ {4}([a-z]\w*): (.+(?:\n {8}.+)*)", re.MULTILINE)


class Section(BaseModel):
    """A group of options: unknown keys and numbers that are not finite are refused, and values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _yes_is_no_number(cls, value: Any, about: ValidationInfo) -> Any:
        """Refuses true and false where a number belongs, which pydantic takes for 1 and 0."""
        if isinstance(value, bool):
            kind = str(cls.model_fields[about.field_name or ""].annotation)
            if re.search(r"\b(int|float)\b|Literal\[\d", kind) and not re.search(r"\bbool\b", kind):
                raise ValueError("a number")
        return value

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Returns the JSON Schema of the section, with what its docstring says of each option, and the word `none`."""
        reference = handler(core_schema)
        schema = handler.resolve_ref_schema(reference)
        options = schema.get("properties", {})
        schema["description"] = inspect.cleandoc(cls.__doc__ or "").partition("\n\nAttributes:\n")[0]
        for name, words in meanings(cls).items():
            if name in options:
                options[name]["description"] = words
        for name, field in cls.model_fields.items():
            if name in options and any(getattr(one, "func", None) is none_word for one in field.metadata):
                options[name]["anyOf"].append({"const": "none"})
        return reference


def meanings(model: type) -> dict[str, str]:
    """Returns what each option of a section means, by name, from its docstring and those of the classes it extends.

    >>> class Crop(Section):
    ...     '''How an image is cut.
    ...
    ...     Attributes:
    ...         pad_px: Pixels that are
    ...             added on each side.
    ...     '''
    ...
    ...     pad_px: Number = 10
    >>> meanings(Crop)
    {'pad_px': 'Pixels that are added on each side.'}
    """
    found: dict[str, str] = {}
    for base in reversed(model.__mro__):
        attributes = inspect.cleandoc(base.__dict__.get("__doc__") or "").partition("\nAttributes:\n")[2]
        found |= {name: " ".join(words.split()) for name, words in _ATTRIBUTE.findall(attributes)}
    return found


def none_word(value: Any) -> Any:
    """Returns None for the word `none`, anything else as it is."""
    return None if value == "none" else value


Margin = Literal["soft"] | Annotated[float, Field(ge=0)]
Weight = Annotated[float, Field(ge=0)]
Factor = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[int, Field(ge=1, le=MOST)]
Number = Annotated[int, Field(ge=0, le=MOST)]
Several = Annotated[int, Field(ge=2, le=MOST)]


def _is_absolute(path: str) -> str:
    if not path.startswith(("/", "$")):
        raise ValueError("an absolute path, which may begin with a variable such as $TMPDIR")
    return path


LocalFolder = Annotated[str, AfterValidator(_is_absolute)]


def _schema_at(model: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    """Returns the keys known at `location` of a model, following nested sections."""
    schema = model.model_json_schema()
    node: dict[str, Any] = schema
    for part in (*location[:-1], None):
        options = [node, *node.get("anyOf", []), *node.get("allOf", [])]
        resolved = [schema["$defs"][o["$ref"].rsplit("/", 1)[1]] if "$ref" in o else o for o in options]
        node = next((o for o in resolved if "properties" in o or "additionalProperties" in o), {})
        if part is None:
            break
        node = node.get("properties", {}).get(part) or node.get("additionalProperties") or {}
    return list(node.get("properties", {}))


def nearest(word: str, known: list[str]) -> str:
    """Returns `did you mean 'x'?` for the nearest known word, or `known: ` and all known words."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(sorted(known))}"


def validate(model: type[T], data: Any, *, where: str) -> T:
    """Returns `data` as a validated model.

    Raises:
        UserError: One sentence naming `where`, the first wrong key, what is wrong with it and the nearest known key.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        errors = error.errors()
    for one in errors:
        if isinstance(cause := one.get("ctx", {}).get("error"), UserError):  # it says everything
            raise UserError(f"{where}: {cause}")
    unknown = {"extra_forbidden", "unexpected_keyword_argument"}  # another key is often missing because of it
    first = next((error for error in errors if error["type"] in unknown), errors[0])
    location = tuple(part for part in first["loc"] if _is_key(part))
    if first["type"] in unknown and first["loc"] and not _is_key(first["loc"][-1]):
        location += (first["loc"][-1],)  # the user's own key, whatever it looks like
    key = shortened(".".join(str(part) for part in location)) or "the file"
    if first["type"] in unknown:
        known = _schema_at(model, location)
        raise UserError(f"{where}: unknown key '{key}'; {nearest(str(first['loc'][-1]), known)}")
    if first["type"] == "missing":
        raise UserError(f"{where}: key '{key}' is missing; add it.")
    if first["type"] == "value_error" and isinstance(first["input"], Mapping):
        raise UserError(f"{where}: {'' if key == 'the file' else f'{key}: '}{_expectation(first)}")
    same_place = [e for e in errors if tuple(part for part in e["loc"] if _is_key(part)) == location]
    wanted = " or ".join(dict.fromkeys(_expectation(e) for e in same_place))
    end = "" if wanted.endswith("?") else "."
    subject = f"{where}: '{key}'" if location else where
    raise UserError(f"{subject} is {_shown(first['input'])} but should be {wanted}{end}")


def _shown(value: Any) -> str:
    try:
        return shortened(repr(value))
    except ValueError:  # an integer of more than 4300 digits
        return "a number of thousands of digits"


def _is_key(part: int | str) -> bool:
    """Tells a key or list position from the tags that pydantic adds for the members of a union."""
    return "[" not in str(part) and not str(part).startswith("constrained") and part not in {"float", "int", "str"}


def _expectation(error: Any) -> str:
    message = str(error["msg"]).removeprefix("Input should be ").removeprefix("Value error, ")
    return "a mapping of options, or none" if error["type"] == "model_type" else message
