"""The binary file of a CTranslate2 model (`model.bin`): read whole, written whole.

Layout, as `ctranslate2.specs.model_spec` writes it, little-endian: version, name of the specification, revision, then
every variable with its name, shape, type and bytes, then the aliases (names that share a variable). A string is its
length with a closing zero, its bytes, the zero.
"""

import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

VERSION = 6  # since CTranslate2 3.0
_TYPES = ("float32", "int8", "int16", "int32", "float16")  # in the order of CTranslate2's DataType


@dataclass(slots=True)
class ModelFile:
    """What a model.bin holds."""

    specification: str  # "WhisperSpec"
    revision: int
    variables: dict[str, NDArray[np.generic]]
    aliases: dict[str, str] = field(default_factory=dict)  # another name to a variable's


def read_model(path: Path) -> ModelFile:
    """Read a model.bin; it has to be of `VERSION` and end with its last alias."""
    with path.open("rb") as stream:
        version = _read_number(stream, "I")
        if version != VERSION:
            raise ValueError(f"{path}: version {version}, expected {VERSION}")
        specification, revision = _read_string(stream), _read_number(stream, "I")
        variables: dict[str, NDArray[np.generic]] = {}
        for _ in range(_read_number(stream, "I")):
            name = _read_string(stream)
            shape = [_read_number(stream, "I") for _ in range(_read_number(stream, "B"))]
            dtype = np.dtype(_TYPES[_read_number(stream, "B")])
            content = stream.read(_read_number(stream, "I"))
            variables[name] = np.frombuffer(content, dtype).reshape(shape)
        aliases = {_read_string(stream): _read_string(stream) for _ in range(_read_number(stream, "I"))}
        rest = stream.read(1)
    if rest:
        raise ValueError(f"{path}: bytes behind the last alias, expected the end of the file")
    return ModelFile(specification, revision, variables, aliases)


def write_model(path: Path, model: ModelFile) -> None:
    """Write a model.bin."""
    with path.open("wb") as stream:
        stream.write(struct.pack("<I", VERSION))
        _write_string(stream, model.specification)
        stream.write(struct.pack("<II", model.revision, len(model.variables)))
        for name, value in model.variables.items():
            _write_string(stream, name)
            stream.write(struct.pack(f"<B{value.ndim}I", value.ndim, *value.shape))
            stream.write(struct.pack("<BI", _TYPES.index(value.dtype.name), value.nbytes))
            stream.write(np.ascontiguousarray(value).tobytes())
        stream.write(struct.pack("<I", len(model.aliases)))
        for alias, name in model.aliases.items():
            _write_string(stream, alias)
            _write_string(stream, name)


def _read_number(stream: BinaryIO, kind: str) -> int:
    (number,) = struct.unpack(f"<{kind}", stream.read(struct.calcsize(f"<{kind}")))
    return int(number)


def _read_string(stream: BinaryIO) -> str:
    return stream.read(_read_number(stream, "H"))[:-1].decode()


def _write_string(stream: BinaryIO, text: str) -> None:
    content = text.encode() + b"\0"
    stream.write(struct.pack("<H", len(content)) + content)
