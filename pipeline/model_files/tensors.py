"""Weights from files, checked against a model before it takes any memory; nothing in them is executed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pipeline.model_files.errors import ModelFileError
from shards.tensor_files import LOAD_ERRORS, TensorFileError, check_safetensors_file, check_torch_file

_MAX_PROBLEMS_SHOWN = 5
_FLOAT_TYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


class WithoutInitialisation(TorchFunctionMode):
    """Modules that are built in the block keep whatever their memory holds: their weights come from a file.

    On the device "meta" drawing random numbers, of which nothing is left, loads a compiler: a second of every start.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Leave out what `torch.nn.init` would do."""
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def read_safetensors(path: Path, what: str) -> dict[str, Tensor]:
    """Return the tensors of a file; `what` says whose weights are expected there.

    Raises:
        ModelFileError: no such file, or it is damaged or something else, such as a pickle.
        MemoryError: this machine has none left.
    """
    try:
        check_safetensors_file(path)
        tensors: dict[str, Tensor] = load_file(path)
    except MemoryError:  # what is taken is in proportion to the file: no fault of it
        raise
    except (*LOAD_ERRORS, SafetensorError) as error:
        raise ModelFileError(f"{path}: {_in_one_line(error)}; expected {what} as safetensors") from error
    return tensors


def read_torch_file(path: Path, what: str) -> dict[str, Tensor]:
    """Return the tensors of a file that `torch.save` wrote: a dictionary of them, or one under the key "state_dict".

    Nothing but tensors and plain values is unpickled, and what `torch.serialization.safe_globals` names. Compressed
    archives are refused: they may unpack to any size.

    Raises:
        ModelFileError: no such file, or it is damaged or something else; `what` says whose weights are expected there.
    """
    entries: list[Any] = torch.serialization.get_safe_globals()
    also = {entry[1] for entry in entries if isinstance(entry, tuple)}  # those with a name of their own in files
    try:
        check_torch_file(path, also)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except TensorFileError as error:
        message = f"{path}: {error}; nothing of it was run; expected {what}"
        raise ModelFileError(f"{message}. Convert it to safetensors where it came from") from error
    except MemoryError:  # as above
        raise
    except LOAD_ERRORS as error:
        raise ModelFileError(f"{path}: cannot be read: {_in_one_line(error)}; expected {what}") from error
    tensors = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise ModelFileError(f"{path}: expected {what} as a dictionary of tensors, or one under the key state_dict")
    return {str(key): value for key, value in tensors.items()}


def check_tensors(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path) -> None:
    """Raise ModelFileError unless a file's tensors are those of a model's state dict, by name, shape and kind.

    Args:
        tensors: what the file holds; floating-point numbers of any precision.
        expected: state dict of the model; on the device "meta" it takes no memory.
        path: of the file, for the message.
    """
    problems = [f"{key} is missing" for key in expected if key not in tensors]
    problems += [f"{key} is unexpected" for key in tensors if key not in expected]
    for key, value in tensors.items():
        if key not in expected:
            continue
        shape, is_number = tuple(expected[key].shape), expected[key].is_floating_point()
        if tuple(value.shape) != shape:
            problems.append(f"{key} has shape {tuple(value.shape)}, expected {shape}")
        elif value.dtype not in _FLOAT_TYPES if is_number else value.is_floating_point() or value.is_complex():
            problems.append(f"{key} is {value.dtype}, expected {'floating-point' if is_number else 'whole'} numbers")
        elif not torch.isfinite(value).all():
            problems.append(f"{key} holds values that are not finite")
    if problems:
        more = f" and {len(problems) - _MAX_PROBLEMS_SHOWN} more" if len(problems) > _MAX_PROBLEMS_SHOWN else ""
        raise ModelFileError(f"{path} does not fit its config: {'; '.join(problems[:_MAX_PROBLEMS_SHOWN])}{more}")


def _in_one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
