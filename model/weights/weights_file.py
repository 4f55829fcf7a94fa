"""Weights in safetensors files: compared with the model by the file's header before a byte of them is read.

A file's own configuration may claim any size. So a model is first described without memory, compared with what the
file holds, and only then allocated: a hostile file costs no more memory than its own size.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from shards.tensor_files import LOAD_ERRORS, check_safetensors_file

FLOAT_TYPES = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}

Shapes = Mapping[str, tuple[int, ...]]


class CheckpointError(ValueError):
    """A checkpoint that is cut, damaged, or of another model."""


def read_tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a safetensors file one by one, on the CPU.

    Raises:
        CheckpointError: no such file, or it is damaged.
    """
    with _open(path) as file:
        for name in file.keys():  # noqa: SIM118 - not a dict
            yield name, file.get_tensor(name)


def read_header(path: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """Return the shape of each tensor of a safetensors file, and its metadata.

    Raises:
        CheckpointError: no such file, it is damaged, or a tensor that is not of floats.
    """
    shapes = {}
    with _open(path) as file:
        for name in file.keys():  # noqa: SIM118 - not a dict
            entry = file.get_slice(name)
            kind = entry.get_dtype()
            if kind not in FLOAT_TYPES:
                expected = ", ".join(FLOAT_TYPES)
                raise CheckpointError(f"{path}: tensor {name} is of type {kind}, expected one of {expected}")
            shapes[name] = tuple(entry.get_shape())
        return shapes, dict(file.metadata() or {})


@contextmanager
def _open(path: Path) -> Iterator[Any]:  # safe_open is untyped
    """Open a safetensors file; what is wrong with it is a CheckpointError in one line."""
    try:
        check_safetensors_file(path)
        with safe_open(path, framework="pt") as file:
            yield file
    except CheckpointError:
        raise
    except (*LOAD_ERRORS, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read as safetensors: {' '.join(str(error).split())}") from error


def compare_shapes(found: Shapes, expected: Shapes, path: Path) -> None:
    """Raise CheckpointError naming the first tensor that is missing, too many, or of another shape."""
    for name in [*expected, *found]:
        if name not in found or name not in expected:
            place = "the file lacks it" if name not in found else "this model has none of that name"
            raise CheckpointError(f"{path} is of another model: tensor {name}: {place}")
        if found[name] != expected[name]:
            raise CheckpointError(
                f"{path} is of another model: tensor {name} has shape {found[name]} there, expected {expected[name]}"
            )


def refuse_not_finite(tensors: Iterable[tuple[str, Tensor]], path: Path) -> None:
    """Raise CheckpointError naming the first tensor that holds an infinity or no number."""
    for name, tensor in tensors:
        num_bad = int((~tensor.isfinite()).sum())
        if num_bad:
            raise CheckpointError(f"{path}: tensor {name} holds {num_bad} values that are not finite; it is damaged")


def load_weights(path: Path, model: nn.Module, names: Collection[str] | None = None) -> None:
    """Copy the weights of a safetensors file into `model`, all of them or none.

    Args:
        path: the file.
        model: is changed.
        names: of the parameters and buffers that the file must hold; None: all.

    Raises:
        CheckpointError: names the first tensor that is missing, too many, of another shape or type, or not finite.
    """
    targets = {name: tensor for name, tensor in model.state_dict().items() if names is None or name in names}
    found, _ = read_header(path)
    compare_shapes(found, {name: tuple(tensor.shape) for name, tensor in targets.items()}, path)
    refuse_not_finite(read_tensors(path), path)
    with torch.no_grad():
        for name, tensor in read_tensors(path):
            targets[name].copy_(tensor)


def build_as_claimed(
    build: Callable[[], Any],
    shapes: Shapes,
    num_layers: int,
    path: Path,
    choose_names: Callable[[Any], Collection[str]] | None = None,
) -> Any:
    """Return `build()`, a model on the meta device, if the tensors of the file are those of that model.

    Args:
        build: makes the model that the file's configuration describes.
        shapes: of the file's tensors.
        num_layers: layers that the configuration claims; even without memory a layer takes time to describe.
        path: names the file in errors.
        choose_names: returns the names of a model's tensors that the file must hold; None: all.
    """
    if num_layers > len(shapes):
        raise CheckpointError(f"{path}: its configuration claims {num_layers} layers, it holds {len(shapes)} tensors")
    try:
        with torch.device("meta"):
            model = build()
    except (RuntimeError, OverflowError, TypeError) as error:  # sizes beyond 64 bits
        raise CheckpointError(f"{path}: its configuration claims sizes that cannot be built: {error}") from error
    state = model.state_dict()
    names = state if choose_names is None else choose_names(model)
    compare_shapes(shapes, {name: tuple(tensor.shape) for name, tensor in state.items() if name in names}, path)
    return model
