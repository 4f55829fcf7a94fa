"""Outputs that are dataclasses, made such that DeepSpeed's ZeRO 3 can look into them."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import nn


def open_outputs(model: nn.Module) -> dict[nn.Module, type]:
    """Make modules return the fields of a dataclass as a tuple; `close_outputs` makes it a dataclass again.

    ZeRO 3 hooks itself in between. It looks for tensors in what a module returns, and dataclasses with slots end it.
    """
    kinds: dict[nn.Module, type] = {}

    def open_output(module: nn.Module, _: object, output: Any) -> tuple[Any, ...] | None:
        if not is_dataclass(output):
            return None
        kinds[module] = type(output)
        return tuple(getattr(output, field.name) for field in fields(output))

    for module in model.modules():
        module.register_forward_hook(open_output)
    return kinds


def close_outputs(model: nn.Module, kinds: Mapping[nn.Module, type]) -> None:
    """Make the modules that `open_outputs` has found return dataclasses again."""

    def close_output(module: nn.Module, _: object, output: Any) -> Any:
        return kinds[module](*output) if module in kinds else None

    for module in model.modules():
        module.register_forward_hook(close_output)
