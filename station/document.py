"""A YAML file read into a frozen model, strictly: every mistake is named with file, line, column, key, value and what to write instead."""

import difflib
import json
import re
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import yaml

_FLOAT_WITHOUT_DOT = re.compile(r"[-+]?\d+[eE][-+]?\d+|[-+]?\d+\.\d*[eE]\d+")
_TRUE_OR_FALSE = {"true": True, "false": False}
_FLOAT = re.compile(r"[-+]?(\d+\.\d*|\.\d+)([eE][-+]?\d+)?")
_DECIMAL = re.compile(r"[-+]?(0|[1-9]\d*)")


class DocumentError(Exception):
    """The file is missing, is no YAML, or says something that the model does not allow. One line per mistake, all of them at once."""


class Model(pydantic.BaseModel):
    """A part of a document: frozen, and any key it does not name is an error."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


M = TypeVar("M", bound=Model)
Place = tuple[int, int]
Key = tuple[str | int, ...]


def read(path: Path, model: type[M]) -> M:
    """The document at `path` as a `model`.

    Raises:
        DocumentError: with `file:line:column: key: what is wrong (value); what to write` for each mistake.
    """
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise DocumentError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    except yaml.reader.ReaderError as error:
        raise DocumentError(f"{path}: not YAML: {error.reason} (character {error.character!r})") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{mark.line + 1}:{mark.column + 1}" if mark else "1:1"
        raise DocumentError(f"{path}:{where}: not YAML: {error.problem or error.context}") from None
    if not isinstance(root, yaml.MappingNode):
        raise DocumentError(
            f"{path}:1:1: expected keys and values, found {'nothing' if root is None else 'a ' + root.tag.rpartition(':')[2]}"
        )
    reader = _Reader(path)
    data = reader.value(root, ())
    if reader.mistakes:
        raise DocumentError("\n".join(reader.mistakes))
    try:
        return model.model_validate_json(json.dumps(data))
    except pydantic.ValidationError as error:
        raise DocumentError("\n".join(reader.explain(mistake, model) for mistake in error.errors())) from None


class _Reader:
    """Turns YAML nodes into plain data, remembers where each key stood, and refuses what YAML 1.1 would quietly misread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.places: dict[Key, Place] = {}
        self.mistakes: list[str] = []

    def value(self, node: yaml.Node, key: Key) -> Any:
        self.places[key] = (node.start_mark.line + 1, node.start_mark.column + 1)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, key)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*key, index)) for index, item in enumerate(node.value)]
        return self._scalar(node, key)

    def _mapping(self, node: yaml.MappingNode, key: Key) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for name_node, value_node in node.value:
            name = str(name_node.value)
            if name in data:
                self._mistake(name_node, (*key, name), "stands twice; keep one of them")
            data[name] = self.value(value_node, (*key, name))
        return data

    def _scalar(self, node: yaml.Node, key: Key) -> Any:
        text = str(node.value)
        if getattr(node, "style", None) in {"'", '"', "|", ">"}:
            return text
        kind = node.tag.rpartition(":")[2]
        if kind == "bool" and text.lower() not in _TRUE_OR_FALSE:
            self._mistake(node, key, f'YAML reads {text} as true or false; write "{text}" in quotes for the word, or true or false')
        elif kind == "str" and _FLOAT_WITHOUT_DOT.fullmatch(text):
            self._mistake(node, key, f"YAML reads {text} as a word; write it with a dot and a signed exponent: {float(text)!r}")
        elif kind == "int" and not _DECIMAL.fullmatch(text):
            self._mistake(node, key, f'YAML reads {text} as another number; write a decimal number, or "{text}" in quotes')
        elif kind == "float" and not _FLOAT.fullmatch(text):
            self._mistake(node, key, f'YAML reads {text} as another number; write a decimal number, or "{text}" in quotes')
            return 0.0
        elif kind == "timestamp":
            self._mistake(node, key, f'YAML reads {text} as a date; write "{text}" in quotes')
        return _plain(kind, text)

    def _mistake(self, node: yaml.Node, key: Key, what: str) -> None:
        line, column = node.start_mark.line + 1, node.start_mark.column + 1
        self.mistakes.append(f"{self.path}:{line}:{column}: {_dotted(key)}: {what}")

    def explain(self, mistake: Any, model: type[Model]) -> str:
        key: Key = tuple(mistake["loc"])
        place = next((self.places[key[:n]] for n in range(len(key), -1, -1) if key[:n] in self.places), (1, 1))
        if mistake["type"] == "extra_forbidden":
            known = _known_keys(model, key[:-1])
            near = difflib.get_close_matches(str(key[-1]), known, 1)
            what = f"unknown key; {f'did you mean {near[0]}?' if near else 'known are ' + ', '.join(known)}"
        elif mistake["type"] == "missing":
            what = "is missing; add it"
        else:
            what = f"{mistake['msg'].removeprefix('Value error, ')} (got {mistake['input']!r})"
        return f"{self.path}:{place[0]}:{place[1]}: {_dotted(key)}: {what}"


def _plain(kind: str, text: str) -> Any:
    if kind == "null":
        return None
    if kind == "bool":
        return _TRUE_OR_FALSE.get(text.lower(), text)
    if kind == "int" and _DECIMAL.fullmatch(text):
        return int(text)
    if kind == "float":
        return float(text)
    return text


def _dotted(key: Key) -> str:
    return ".".join(str(part) for part in key)


def _known_keys(model: type[Model], key: Key) -> list[str]:
    """The keys that the model at `key` knows; found by following the fields' annotations."""
    current: Any = model
    for part in key:
        if isinstance(part, str) and isinstance(current, type) and issubclass(current, pydantic.BaseModel):
            current = current.model_fields[part].annotation
        current = next((item for item in _inner(current) if isinstance(item, type) and issubclass(item, pydantic.BaseModel)), current)
    return sorted(current.model_fields) if isinstance(current, type) and issubclass(current, pydantic.BaseModel) else []


def _inner(annotation: Any) -> list[Any]:
    return [annotation, *(inner for argument in getattr(annotation, "__args__", ()) for inner in _inner(argument))]
