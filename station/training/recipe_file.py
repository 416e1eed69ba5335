"""A recipe.yaml changed by a program: the values asked for, and no other character.

Each value is replaced where the parser says it stands, so that comments, order, quoting and layout stay as somebody wrote them. A YAML
library's round trip does not keep that promise: it moves the comments beside a value, and with a key it drops the comments that follow.
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import yaml

from station.document import DocumentError, read
from station.recipe import RecipeDocument, RecipeError


def edit(file: Path, changes: Mapping[str, object]) -> None:
    """Sets keys of the recipe `file`: afterwards the whole new file is on the disk and says just that, or the old one stands untouched.

    Args:
        changes: values by dotted key, such as `network.sha256`; each a number, a word, true or false. With a mapping the key's own mapping
            has these keys and no others afterwards; a line comment goes with the key that it stood beside.

    Raises:
        RecipeError: the old file is no recipe, the new one would not be, or it cannot be written; the message says which.
    """
    target = file.resolve()
    fresh = target.with_name(f".{target.name}.new")
    try:
        before = read(file, RecipeDocument)
        text = file.read_bytes().decode("utf-8")
        for key, value in changes.items():
            text = _set(text, tuple(key.split(".")), value)
        _write(fresh, text)
        shutil.copymode(target, fresh)
        if read(fresh, RecipeDocument) != _changed(before, changes):
            raise ValueError("the layout of these keys cannot be edited; write each on a line of its own")
        _replace(target, fresh)
    except (DocumentError, ValueError, OSError, yaml.YAMLError) as error:
        reason = str(error).replace(str(fresh), str(file))
        raise RecipeError(f"{file}: {', '.join(changes)}: not changed: {reason}") from None
    finally:
        fresh.unlink(missing_ok=True)


def _changed(document: RecipeDocument, changes: Mapping[str, object]) -> RecipeDocument:
    """What the new file must say."""
    data = document.model_dump(by_alias=True)
    for key, value in changes.items():
        *parents, name = key.split(".")
        inner = data
        for parent in parents:
            inner = inner[parent]
        inner[name] = value
    return RecipeDocument.model_validate_json(json.dumps(data))


def _set(text: str, key: tuple[str, ...], value: object, after: str | None = None) -> str:
    """The text with the value at `key`; a new key is put behind its neighbour `after`, by default at the end of its mapping."""
    mapping = _mapping(text, key[:-1])
    node = _entries(mapping).get(key[-1], (None, None))[1]
    if node is None:
        return _inserted(text, mapping, key[-1], value, after)
    if isinstance(value, Mapping) and isinstance(node, yaml.MappingNode):
        return _rewritten(text, key, value)
    if isinstance(node, yaml.CollectionNode) and not node.flow_style:
        raise ValueError(f"{'.'.join(key)} is written over several lines; put it on one line")
    start, end = node.start_mark.index, node.end_mark.index
    return f"{text[:start]}{' ' * (start == end)}{_word(value)}{text[end:]}"


def _rewritten(text: str, key: tuple[str, ...], values: Mapping[str, object]) -> str:
    """The text with just these entries in the mapping at `key`."""
    after = None
    for name, value in values.items():
        text = _set(text, (*key, name), value, after)
        after = name
    for name in _entries(_mapping(text, key)).keys() - values.keys():
        text = _removed(text, _mapping(text, key), name)
    return text


def _inserted(text: str, mapping: yaml.MappingNode, name: str, value: object, after: str | None) -> str:
    entry = f"{name}: {_word(value)}"
    entries = _entries(mapping)
    if not entries:
        raise ValueError(f"the mapping that {name} belongs to is empty; write a first key into it")
    end = _end(entries[after or [*entries][-1]][1])
    if mapping.flow_style:
        return f"{text[:end]}, {entry}{text[end:]}"
    end += len(text[end:].partition("\n")[0].rstrip("\r"))
    line_break = "\r\n" if "\r\n" in text else "\n"
    return f"{text[:end]}{line_break}{' ' * mapping.start_mark.column}{entry}{text[end:]}"


def _removed(text: str, mapping: yaml.MappingNode, name: str) -> str:
    entries = _entries(mapping)
    key, value = entries[name]
    start, end = key.start_mark.index, _end(value)
    names = [*entries]
    place = names.index(name)
    if not mapping.flow_style:
        start = text.rfind("\n", 0, start) + 1
        end = text.find("\n", end) + 1 or len(text)
    elif place:
        start = _end(entries[names[place - 1]][1])
    elif len(names) > 1:
        end = entries[names[1]][0].start_mark.index
    return text[:start] + text[end:]


def _mapping(text: str, key: tuple[str, ...]) -> yaml.MappingNode:
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    for name in key:
        node = _entries(node).get(name, (None, None))[1] if isinstance(node, yaml.MappingNode) else None
    if not isinstance(node, yaml.MappingNode):
        raise ValueError(f"{'.'.join(key)} holds no keys")
    return node


def _entries(mapping: yaml.MappingNode) -> dict[str, tuple[yaml.Node, yaml.Node]]:
    return {str(key.value): (key, value) for key, value in mapping.value}


def _end(node: yaml.Node) -> int:
    """Behind the last character of the value itself; the parser lets a block end where the next one begins, behind the comments between."""
    while isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        node = node.value[-1][1] if isinstance(node, yaml.MappingNode) else node.value[-1]
    return int(node.end_mark.index)


def _word(value: object) -> str:
    """The value in YAML, on one line, as `station.document` reads it."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {_word(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, str) and value.isalpha() and yaml.safe_load(value) == value:
        return value
    if isinstance(value, str | int | float):
        return json.dumps(value, ensure_ascii=False)
    raise ValueError(f"{value!r} is no number and no word")


def _write(file: Path, text: str) -> None:
    with file.open("wb") as opened:
        opened.write(text.encode("utf-8"))
        opened.flush()
        os.fsync(opened.fileno())


def _replace(target: Path, fresh: Path) -> None:
    fresh.replace(target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
