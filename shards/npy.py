"""Arrays as .npy bytes, format version 1.0: little endian, C order, never an object.

The header is spelled here, so that the bytes do not change with the release of NumPy, and it is read by a fixed
pattern, so that nothing in it is ever evaluated. `numpy.load` reads what `encode_array` writes.
"""

import math
import re

import numpy as np
from numpy.typing import NDArray

from shards.schema import (
    MAX_LATENT_CHANNELS,
    MAX_MEMBER_BYTES,
    MAX_NUM_FRAMES,
    MAX_PROMPTS,
    PROMPT_FRAMES,
    Field,
    ShardError,
)

MAGIC = b"\x93NUMPY\x01\x00"  # version 1.0
_PREFIX_BYTES = len(MAGIC) + 2
_ALIGNMENT = 64  # data starts at a multiple of this, as numpy writes it
_HEADER_BYTES = 2 * _ALIGNMENT  # with every shape that the limits allow
_HEADER = re.compile(
    rb"\{'descr': '([^']{1,16})', 'fortran_order': (True|False), "
    rb"'shape': \(([0-9]{1,12},|[0-9]{1,12}(?:, [0-9]{1,12}){1,3})\), \} *\n"
)
_AXIS_RANGES = {
    "T": (1, MAX_NUM_FRAMES),
    "C": (1, MAX_LATENT_CHANNELS),
    "K": (1, MAX_PROMPTS),
    "P": (PROMPT_FRAMES, PROMPT_FRAMES),
}


def check_shape(shape: tuple[int, ...], field: Field, where: str) -> None:
    """Raise ShardError unless `shape` has the axes of `field`, each within the limits of the schema."""
    if len(shape) != len(field.axes):
        raise ShardError(f"{where}: {field.suffix} has shape {shape}, expected {len(field.axes)} axes ({field.axes})")
    for axis, length in zip(field.axes, shape, strict=True):
        low, high = _AXIS_RANGES[axis]
        if not low <= length <= high:
            raise ShardError(f"{where}: {field.suffix} has {axis}={length}, expected {low} to {high}")
    num_bytes = math.prod(shape) * _stored_dtype(field).itemsize
    if num_bytes > MAX_MEMBER_BYTES - _HEADER_BYTES:
        raise ShardError(f"{where}: {field.suffix} of shape {shape} has {num_bytes} bytes; cut the song into parts")


def encode_array(array: NDArray[np.generic], field: Field) -> bytes:
    """Return `array` as the .npy bytes of `field`; the same values give the same bytes on every machine."""
    dtype = _stored_dtype(field)
    header = f"{{'descr': '{dtype.str}', 'fortran_order': False, 'shape': {tuple(map(int, array.shape))}, }}"
    num_spaces = -(_PREFIX_BYTES + len(header) + 1) % _ALIGNMENT
    text = header.encode("ascii") + b" " * num_spaces + b"\n"
    return MAGIC + len(text).to_bytes(2, "little") + text + array.astype(dtype, order="C").tobytes()


def decode_array(data: NDArray[np.uint8], field: Field, where: str) -> NDArray[np.generic]:
    """Return the array in the .npy bytes `data` as a view on them.

    Raises:
        ShardError: not version 1.0, another dtype or order, a shape outside the limits, or too few or too many bytes.
    """
    prefix = data[:_PREFIX_BYTES].tobytes()
    if len(prefix) < _PREFIX_BYTES or not prefix.startswith(MAGIC):
        raise ShardError(f"{where}: {field.suffix} starts with {prefix[:8]!r}, expected {MAGIC!r} (npy version 1.0)")
    start = _PREFIX_BYTES + int.from_bytes(prefix[len(MAGIC) :], "little")
    header = data[_PREFIX_BYTES:start].tobytes()
    shape = _parse_header(header, field, where)
    dtype = _stored_dtype(field)
    expected_bytes = start + math.prod(shape) * dtype.itemsize
    if len(data) != expected_bytes:
        raise ShardError(f"{where}: {field.suffix} has {len(data)} bytes, its shape {shape} needs {expected_bytes}")
    return data[start:].view(dtype).reshape(shape)


def _stored_dtype(field: Field) -> np.dtype[np.generic]:
    assert field.dtype is not None, f"{field.name} is not an array"
    return np.dtype(field.dtype).newbyteorder("<")


def _parse_header(header: bytes, field: Field, where: str) -> tuple[int, ...]:
    match = _HEADER.fullmatch(header)
    if match is None:
        raise ShardError(f"{where}: {field.suffix} has the header {header[:80]!r}, which is not that of a plain array")
    descr, fortran_order, shape_text = (group.decode("latin-1") for group in match.groups())
    expected = _stored_dtype(field).str
    if descr != expected or fortran_order == "True":
        order = "Fortran" if fortran_order == "True" else "C"
        raise ShardError(f"{where}: {field.suffix} holds {descr!r} in {order} order, expected {expected!r} in C order")
    shape = tuple(int(number) for number in shape_text.rstrip(",").split(", "))
    check_shape(shape, field, where)
    return shape
