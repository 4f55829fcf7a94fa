"""What a CUDA graph does, done on a CPU: take down a step's operations on its very tensors, and run these again.

Nothing of the program runs again but those operations: a step that depended on a Python number which has changed since,
or on a tensor that has moved, would give another result than the step itself.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from model.sampling.step_runner import RecordError, Step

READS = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "is_nonzero", "equal", "item")


def tensors_in(*values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def find_storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


class Tape(TorchDispatchMode):
    """Takes down operations, and what they overwrite."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []
        self.given: dict[int, Tensor] = {}  # by storage: what was there before the step
        self._made: set[int] = set()
        self._saved: list[tuple[Tensor, Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.overloadpacket.__name__ in READS:
            raise RecordError(f"{func} needs a value of the device")
        for tensor in tensors_in(args, kwargs):
            if find_storage(tensor) not in self._made:
                self.given.setdefault(find_storage(tensor), tensor)
        for number, argument in enumerate(func._schema.arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                target = args[number] if number < len(args) else kwargs[argument.name]
                self._saved.append((target, target.clone()))
        out = func(*args, **kwargs)
        known = {find_storage(tensor) for tensor in tensors_in(args, kwargs)}
        self._made.update(find_storage(tensor) for tensor in tensors_in(out) if find_storage(tensor) not in known)
        self.operations.append((func, args, kwargs, out))
        return out

    def undo(self) -> None:
        """Put back what was overwritten: recording runs nothing."""
        for target, before in reversed(self._saved):
            target.copy_(before)

    def launch(self) -> None:
        """Run the operations again, each to where its result was."""
        for func, args, kwargs, recorded in self.operations:
            known = {find_storage(tensor) for tensor in tensors_in(args, kwargs)}
            out = func(*args, **kwargs)
            for place, value in zip(tensors_in(recorded), tensors_in(out), strict=True):
                assert place.shape == value.shape
                if find_storage(place) not in known:  # no view of what is there already
                    place.copy_(value)

    @property
    def shapes(self) -> list[tuple[str, list[tuple[torch.Size, torch.dtype]]]]:
        """Return every operation's name, and shapes and types of what it reads."""
        return [
            (str(func), [(tensor.shape, tensor.dtype) for tensor in tensors_in(args, kwargs)])
            for func, args, kwargs, _ in self.operations
        ]


class Recorder:
    """Records steps as tapes and counts launches; `refused` are numbers of recordings that fail."""

    def __init__(self, refused: Iterable[int] = ()) -> None:
        self.tapes: list[Tape] = []
        self.num_launched = 0
        self.is_launching = False
        self._refused = set(refused)

    def __call__(self, step: Step) -> Callable[[], None]:
        if len(self.tapes) in self._refused:
            raise RecordError("operation not permitted when stream is capturing")
        tape = Tape()
        try:
            with tape:
                step()
        finally:
            tape.undo()
        self.tapes.append(tape)

        def launch() -> None:
            self.num_launched += 1
            self.is_launching = True
            tape.launch()
            self.is_launching = False

        return launch


class OperationCounter(TorchDispatchMode):
    """Counts operations beside the launches."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.num_outside = 0
        self._recorder = recorder

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.num_outside += not self._recorder.is_launching
        return func(*args, **(kwargs or {}))
