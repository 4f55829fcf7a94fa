"""Strict reading of YAML into typed dataclasses: what is unknown, missing or of another type is refused by name.

Of YAML a configuration needs mappings, lists and plain values. Anchors, aliases, merge keys and tags are refused: a few
lines of them unfold to gigabytes. So is whatever no configuration comes near: see the limits below.
"""

import dataclasses
import difflib
import math
import re
import reprlib
import types
import typing
from collections import Counter
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

import yaml

from model.network.config import ConfigError

# Far above any configuration, far below what takes a second: PyYAML reads some 40 kB in that time.
MAX_CONFIG_BYTES = 32_768  # fifteen times the longest one shipped
MAX_NODES = 2_000  # keys, values, sections and lists
MAX_DEPTH = 16  # of sections in each other
MAX_NUMBER_LETTERS = 40
MAX_EXACT_INT = 2**53  # whole numbers up to here are exact as float

_TAG = "tag:yaml.org,2002:"


class _PlainLoader(yaml.SafeLoader):
    """PyYAML's safe loader for plain values alone, each key once.

    Dates, and times such as 1:30:00 that YAML 1.1 takes for numbers to the base of sixty, stay text.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._num_nodes = 0
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            self._refuse("anchors (&) and aliases (*) are not read here; write the value out", event)
        if event.tag is not None:
            self._refuse(f"tags such as {event.tag!r:.40} are not read here; write a plain value", event)
        self._num_nodes += 1
        self._depth += 1
        if self._num_nodes > MAX_NODES or self._depth > MAX_DEPTH:
            self._refuse(f"more than {MAX_NODES} keys and values, or more than {MAX_DEPTH} levels", event)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if isinstance(node, yaml.ScalarNode):
            self._check_scalar(node, event)
        return node

    def _check_scalar(self, node: yaml.ScalarNode, event: Any) -> None:
        kind = node.tag.removeprefix(_TAG)
        if kind == "merge":
            self._refuse("merge keys (<<) are not read here; write the keys out", event)
        is_number = kind in ("int", "float")
        if kind in ("timestamp", "value") or (is_number and ":" in node.value):
            node.tag = f"{_TAG}str"
        elif is_number and len(node.value) > MAX_NUMBER_LETTERS:
            self._refuse(f"a number of {len(node.value)} letters, expected at most {MAX_NUMBER_LETTERS}", event)

    def _refuse(self, problem: str, event: Any) -> NoReturn:
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        for key, count in keys.items():
            if count > 1:
                raise yaml.MarkedYAMLError(problem=f"key {key!r} stands here twice", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


def _parse(text: str) -> Any:
    """Return the plain values in YAML; yaml.YAMLError, or ValueError where a number cannot be."""
    return _PlainLoader(text).get_single_data()


def read_yaml(path: Path) -> Any:
    """Return the plain values of a YAML file, or raise ConfigError with the file's name."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > MAX_CONFIG_BYTES:
        raise ConfigError(
            f"{path.name}: expected a config of at most {MAX_CONFIG_BYTES} bytes; those shipped have 2000"
        )
    try:
        return _parse(data.decode("utf-8"))
    except (yaml.YAMLError, ValueError) as error:  # ValueError: no UTF-8, or a number such as 0x_
        raise ConfigError(f"{path.name}: not YAML: {' '.join(str(error).split())}") from error


def override(tree: Any, setting: str) -> None:
    """Set one `section.key=value` in place; unknown keys are left for the loader to name."""
    key, equals, text = setting.partition("=")
    *parents, last = key.strip().split(".")
    if not equals or not parents or not last:
        raise ConfigError(f"--set {setting}: expected section.key=value, for example --set optimizer.lr=1e-4")
    for name in parents:
        if not isinstance(tree, dict):
            raise ConfigError(f"--set {setting}: there is no section above '{name}'")
        tree = tree.setdefault(name, {})
    if not isinstance(tree, dict):
        raise ConfigError(f"--set {setting}: '{'.'.join(parents)}' is no section")
    try:
        value = _parse(text)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"--set {setting}: the value is not YAML: {' '.join(str(error).split())}") from error
    if isinstance(value, str) and _spell_float(value):
        value = float(value)
    tree[last] = value


def build(kind: Any, tree: object, source: str) -> Any:
    """Return the plain values of `tree` as a `kind`, a dataclass; `source` starts every message.

    Raises:
        ConfigError: a key is unknown or missing, or a value has another type or lies outside its range.
    """
    return _Builder(source).build(kind, tree, "")


@dataclass(frozen=True)
class _Builder:
    """Turns plain values into typed ones, and names the file and the key of the first that does not fit."""

    source: str

    def build(self, kind: Any, value: object, path: str) -> Any:
        """Return `value` as a `kind`: a dataclass, Literal, tuple, union with None or plain type."""
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if dataclasses.is_dataclass(kind):
            return self._build_section(kind, value, path)
        if origin is tuple:
            return self._build_tuple(arguments, value, path)
        if origin in (types.UnionType, typing.Union):
            if value is None and type(None) in arguments:
                return None
            return self.build(next(choice for choice in arguments if choice is not type(None)), value, path)
        if origin is Literal:
            if any(value == choice and type(value) is type(choice) for choice in arguments):
                return value
            self._refuse(path, f"{_show(value)}, expected one of {', '.join(map(repr, arguments))}")
        if kind is float and type(value) is int and abs(value) <= MAX_EXACT_INT:
            return float(value)
        if type(value) is not kind:
            spelling = _spell_float(value) if kind is float else None
            hint = f"; in YAML write {spelling}" if spelling else ""
            self._refuse(path, f"{_show(value)} is {type(value).__name__}, expected {kind.__name__}{hint}")
        if isinstance(value, float) and not math.isfinite(value):
            self._refuse(path, f"{value}, expected a finite number")
        return value

    def _build_section(self, kind: Any, value: object, path: str) -> Any:
        if not isinstance(value, dict):
            self._refuse(path, f"{_show(value)}, expected a section with keys")
        hints = typing.get_type_hints(kind)
        fields = {field.name: field for field in dataclasses.fields(kind)}
        for key in value:
            if key not in fields:
                near = difflib.get_close_matches(str(key)[:100], fields, n=1, cutoff=0.0)
                self._refuse(path, f"unknown key {_show(key)}; did you mean '{near[0]}'?")
        for name, field in fields.items():
            has_default = field.default is not MISSING or field.default_factory is not MISSING
            if name not in value and not has_default:
                self._refuse(path, f"key '{name}' is missing")
        built = {key: self.build(hints[key], item, f"{path}.{key}") for key, item in value.items()}
        try:
            return kind(**built)
        except ConfigError as error:  # the section itself says which of its keys
            raise ConfigError(f"{self.source}: {error}") from error

    def _build_tuple(self, arguments: tuple[Any, ...], value: object, path: str) -> tuple[Any, ...]:
        if not isinstance(value, list):
            self._refuse(path, f"{_show(value)}, expected a list")
        kinds = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        if len(value) != len(kinds):
            self._refuse(path, f"{len(value)} values, expected {len(kinds)}")
        items = zip(kinds, value, strict=True)
        return tuple(self.build(kind, item, f"{path}[{number}]") for number, (kind, item) in enumerate(items))

    def _refuse(self, path: str, problem: str) -> NoReturn:
        raise ConfigError(f"{self.source}{path}: {problem}")


def _spell_float(value: object) -> str | None:
    """Return how YAML 1.1 wants the number that a text like '1e-4' means, or None where it is no number."""
    if not isinstance(value, str):
        return None
    match = re.fullmatch(r"([-+]?)(\d{1,20})(\.\d{0,20})?(?:[eE]([-+]?)(\d{1,3}))?", value.strip())
    if match is None:
        return None
    sign, whole, fraction, exponent_sign, exponent = match.groups()
    mantissa = f"{sign}{whole}{fraction if fraction and fraction != '.' else '.0'}"
    return mantissa if exponent is None else f"{mantissa}e{exponent_sign or '+'}{exponent}"


def _show(value: object) -> str:
    return reprlib.repr(value)
