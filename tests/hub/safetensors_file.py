"""Writes safetensors tensor by tensor, so that a large model takes no memory twice; the bytes are those of the library.

Sizes follow from names and shapes alone, which is how published sizes check the lists of names.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

_TYPES = {torch.float32: "F32", torch.float16: "F16", torch.int64: "I64"}


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], alignment: int) -> None:
    """Write tensors, in the library's order: larger numbers first, then by name.

    Args:
        path: of the file.
        tensors: on the CPU.
        metadata: of the whole file.
        alignment: of the first tensor in bytes: 8, or 1 as older versions of the library.
    """
    with path.open("wb") as stream:
        stream.write(_header(tensors, metadata, alignment))
        for name in _order(tensors):
            stream.write(memoryview(tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy()))


def safetensors_size(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], alignment: int) -> int:
    """Return the size of a file in bytes; the tensors may be on the device "meta"."""
    return len(_header(tensors, metadata, alignment)) + sum(t.numel() * t.element_size() for t in tensors.values())


def _order(tensors: Mapping[str, Tensor]) -> Iterator[str]:
    return iter(sorted(tensors, key=lambda name: (-tensors[name].element_size(), name)))


def _header(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], alignment: int) -> bytes:
    entries: dict[str, object] = {"__metadata__": dict(metadata)}
    offset = 0
    for name in _order(tensors):
        tensor = tensors[name]
        end = offset + tensor.numel() * tensor.element_size()
        entries[name] = {"dtype": _TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % alignment)
    return len(text).to_bytes(8, "little") + text
