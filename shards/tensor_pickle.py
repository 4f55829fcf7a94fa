"""The pickle in a file of `torch.save`, gone through with stand-ins for all that is not a plain value.

Nothing is imported, called or allocated: what PyTorch's unpickler would make of each step is only counted. What is let
through is what `torch.save` writes of tensors and plain values.
Sources: pickletools of Python, torch/_weights_only_unpickler.py of PyTorch 2.8.
"""

import pickle
import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

MAX_STEPS = 200_000  # about 40 for each tensor
MAX_COPIED = 2**20  # values that are copied: a few steps copy what many steps have made
_MAX_DIMENSIONS = 16
_MAX_SIZE = 2**63

_ITEM_BYTES = {
    "torch.DoubleStorage": 8, "torch.FloatStorage": 4, "torch.HalfStorage": 2, "torch.BFloat16Storage": 2,
    "torch.LongStorage": 8, "torch.IntStorage": 4, "torch.ShortStorage": 2, "torch.CharStorage": 1,
    "torch.ByteStorage": 1, "torch.BoolStorage": 1, "torch.ComplexFloatStorage": 8, "torch.ComplexDoubleStorage": 16,
}  # fmt: skip
_DTYPES = {
    f"torch.{name}"
    for name in "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool complex64 complex128".split()
}
_CALLABLES = {
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
    "torch.Size",
    "torch.device",
    "collections.OrderedDict",
    "collections.Counter",
    "_codecs.encode",
}
_OLD_NAMES = {"__builtin__.long": "builtins.int"}  # of Python 2, which pickle protocol 2 writes


class PickleError(ValueError):
    """A pickle that is cut or damaged, or holds more than tensors and plain values."""


def count_tensor_bytes(data: bytes, storage_bytes: Mapping[str, int], also: Collection[str]) -> int:
    """Return the bytes of all tensors in a pickle, those that share a storage counted each.

    Args:
        data: the pickle.
        storage_bytes: size of each storage of the file, by its key.
        also: full names of classes that may be used besides tensors.

    Raises:
        PickleError: see there.
    """
    walk = _Walk(data, storage_bytes, also)
    try:
        walk.read()
    except (LookupError, struct.error, UnicodeDecodeError) as error:
        raise PickleError(f"the pickle is cut or damaged at byte {walk.place}") from error
    return walk.tensor_bytes


@dataclass(frozen=True, slots=True, eq=False)
class _Global:
    """A name that the pickle imports; nothing is imported here."""

    name: str


@dataclass(frozen=True, slots=True, eq=False)
class _Storage:
    """The values of tensors: a member of the archive."""

    item_bytes: int
    num_items: int


class _Tensor:
    """A tensor or a parameter."""


class _Other:
    """What came of an import that was let through."""


class _Ordered(dict[Any, Any]):
    """An OrderedDict, which may have attributes."""


class _Walk:
    """Goes through a pickle as PyTorch's unpickler would, with stand-ins for all that is not a plain value."""

    def __init__(self, data: bytes, storage_bytes: Mapping[str, int], also: Collection[str]) -> None:
        self.place = 0
        self.tensor_bytes = 0
        self._copied = 0
        self._data = data
        self._storage_bytes = storage_bytes
        self._also = also
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._storages: dict[str, _Storage] = {}

    def read(self) -> None:
        """Go through all of it; LookupError, struct.error or UnicodeDecodeError where it is cut or damaged."""
        for _ in range(MAX_STEPS):
            opcode = self._take(1)
            if opcode == pickle.STOP:
                self._stack.pop()
                return
            self._step(opcode)
        raise PickleError(f"more than {MAX_STEPS} steps")

    def _step(self, opcode: bytes) -> None:
        stack = self._stack
        if opcode in _NUMBERS:
            stack.append(self._unpack(_NUMBERS[opcode]))
        elif opcode in _CONSTANTS:
            stack.append(_CONSTANTS[opcode])
        elif opcode in _CONTAINERS:
            stack.append(_CONTAINERS[opcode]())
        elif opcode in (pickle.BINPUT, pickle.LONG_BINPUT):
            self._memo[self._unpack("<B" if opcode == pickle.BINPUT else "<I")] = stack[-1]
        elif opcode in (pickle.BINGET, pickle.LONG_BINGET):
            stack.append(self._memo[self._unpack("<B" if opcode == pickle.BINGET else "<I")])
        elif opcode == pickle.BINUNICODE:
            stack.append(self._take(self._unpack("<I")).decode("utf-8"))
        elif opcode == pickle.SHORT_BINSTRING:
            stack.append(self._take(self._unpack("<B")))
        elif opcode == pickle.LONG1:
            stack.append(int.from_bytes(self._take(self._unpack("<B")), "little", signed=True))
        elif opcode == pickle.MARK:
            self._marks.append(stack)
            self._stack = []
        elif opcode == pickle.TUPLE:
            self._pop_to_mark(tuple)
        elif opcode in _TUPLES:
            items = [stack.pop() for _ in range(_TUPLES[opcode])]
            stack.append(tuple(reversed(items)))
        elif opcode in (pickle.APPEND, pickle.APPENDS):
            items = self._pop_items(opcode == pickle.APPENDS, 1)
            self._expect(type(self._stack[-1]) is list, "an item for what is no list")
            self._stack[-1].extend(items)
        elif opcode in (pickle.SETITEM, pickle.SETITEMS):
            self._set_items(self._pop_items(opcode == pickle.SETITEMS, 2))
        elif opcode == pickle.GLOBAL:
            stack.append(self._import())
        elif opcode == pickle.BINPERSID:
            stack.append(self._find_storage(stack.pop()))
        elif opcode in (pickle.REDUCE, pickle.NEWOBJ):
            arguments, function = stack.pop(), stack.pop()
            stack.append(self._call(function, arguments, is_new=opcode == pickle.NEWOBJ))
        elif opcode == pickle.BUILD:
            self._build(stack.pop())
        elif opcode == pickle.PROTO:
            protocol = self._unpack("<B")
            self._expect(protocol == 2, f"pickle protocol {protocol}, expected 2")
        else:
            self._refuse(f"the pickle operation {opcode!r}")

    def _take(self, num_bytes: int) -> bytes:
        data = self._data[self.place : self.place + num_bytes]
        if len(data) != num_bytes:
            raise IndexError(num_bytes)
        self.place += num_bytes
        return data

    def _take_line(self) -> bytes:
        end = self._data.find(b"\n", self.place)
        if end < 0:
            raise IndexError(end)
        line = self._data[self.place : end]
        self.place = end + 1
        return line

    def _unpack(self, kind: str) -> Any:
        return struct.unpack(kind, self._take(struct.calcsize(kind)))[0]

    def _pop_to_mark(self, kind: type) -> None:
        items = self._stack
        self._stack = self._marks.pop()
        self._stack.append(kind(items))

    def _pop_items(self, are_many: bool, count: int) -> list[Any]:
        if not are_many:
            return [self._stack.pop() for _ in range(count)][::-1]
        items = self._stack
        self._stack = self._marks.pop()
        return items

    def _set_items(self, items: list[Any]) -> None:
        target = self._stack[-1]
        self._expect(isinstance(target, dict) and len(items) % 2 == 0, "a key for what is no dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # A tuple of tuples of tuples may take for ever to hash.
            parts = key if type(key) is tuple and len(key) <= _MAX_DIMENSIONS else (key,)
            self._expect(all(type(part) in _PLAIN for part in parts), "a key that is no plain value")
            target[key] = value

    def _build(self, state: Any) -> None:
        if type(self._stack[-1]) is not _Other:
            self._expect(type(self._stack[-1]) is _Ordered and type(state) is dict, "attributes for what has none")
            self._count_copied(len(state))
            self._expect(all(type(name) is str for name in state), "an attribute without a name")

    def _import(self) -> _Global:
        module, name = (self._take_line().decode("utf-8") for _ in range(2))
        full_name = f"{module}.{name}"
        full_name = _OLD_NAMES.get(full_name, full_name.replace("__builtin__.", "builtins."))
        if full_name not in (_CALLABLES | _DTYPES | _ITEM_BYTES.keys()) and full_name not in self._also:
            self._refuse(f"{full_name!r:.80}")
        return _Global(full_name)

    def _find_storage(self, identity: Any) -> _Storage:
        self._expect(type(identity) is tuple and len(identity) == 5, "an unknown reference")
        kind, storage_type, key, location, num_items = identity
        self._expect(
            kind in ("storage", b"storage") and type(storage_type) is _Global and storage_type.name in _ITEM_BYTES
            and type(key) is str and type(location) in (str, bytes) and type(num_items) is int and num_items >= 0,
            "an unknown reference",
        )  # fmt: skip
        storage = _Storage(_ITEM_BYTES[storage_type.name], num_items)
        if storage.item_bytes * num_items > self._storage_bytes.get(key, -1):
            found = self._storage_bytes.get(key, "none")
            raise PickleError(f"storage {key!r:.80} claims {num_items} values, its member has {found} bytes")
        known = self._storages.setdefault(key, storage)
        if (known.item_bytes, known.num_items) != (storage.item_bytes, num_items):
            raise PickleError(f"storage {key!r:.80} is there twice, with different sizes")
        return known

    def _call(self, function: Any, arguments: Any, *, is_new: bool) -> Any:
        self._expect(type(function) is _Global and type(arguments) is tuple, "a call of what is no function")
        self._count_copied(len(arguments))
        name = function.name
        if name in self._also:
            return _Other()
        self._expect(not is_new and name in _CALLABLES, f"a call of {name}")
        if name == "torch._utils._rebuild_tensor_v2":
            return self._count_tensor(*arguments) if len(arguments) == 6 else self._refuse("a tensor with more to it")
        if name == "torch._utils._rebuild_parameter":
            is_plain = len(arguments) == 3 and type(arguments[0]) is _Tensor and type(arguments[1]) is bool
            self._expect(is_plain and arguments[2] == {}, "a parameter with more to it")
            return arguments[0]
        if name == "collections.OrderedDict":
            self._expect(arguments == (), "a call of OrderedDict with arguments")
            return _Ordered()
        if name == "_codecs.encode":
            is_plain = len(arguments) == 2 and type(arguments[0]) is str and arguments[1] == "latin1"
            self._expect(is_plain, f"a call of {name}")
            self._count_copied(len(arguments[0]))
            return b""
        if name == "collections.Counter":
            self._expect(len(arguments) <= 1 and all(type(part) is dict for part in arguments), f"a call of {name}")
            self._count_copied(sum(map(len, arguments)))
            return {}
        values = arguments[0] if name == "torch.Size" and len(arguments) == 1 else arguments
        is_short = type(values) is tuple and len(values) <= _MAX_DIMENSIONS
        self._expect(is_short and all(type(value) in (int, str) for value in values), f"a call of {name}")
        return _Other()

    def _count_tensor(self, storage: Any, offset: Any, shape: Any, stride: Any, needs_grad: Any, hooks: Any) -> _Tensor:
        self._expect(type(storage) is _Storage and type(shape) is type(stride) is tuple, "a tensor without values")
        self._expect(len(shape) == len(stride) <= _MAX_DIMENSIONS, "a tensor of too many dimensions")
        numbers = (offset, *shape, *stride)
        self._expect(all(type(n) is int and 0 <= n < _MAX_SIZE for n in numbers), "a tensor with a size that is none")
        self._expect(type(needs_grad) is bool and hooks == {}, "a tensor with more to it")
        num_items, last = 1, offset
        for length, step in zip(shape, stride, strict=True):
            num_items *= length
            last += (length - 1) * step
        if num_items > storage.num_items or (num_items and last >= storage.num_items):
            found = f"{num_items} values from {offset} to {last}"
            raise PickleError(f"a tensor of {found}, its storage has {storage.num_items}")
        self.tensor_bytes += num_items * storage.item_bytes
        return _Tensor()

    def _count_copied(self, count: int) -> None:
        self._copied += count
        self._expect(self._copied <= MAX_COPIED, f"more than {MAX_COPIED} copied values")

    def _expect(self, condition: bool, found: str) -> None:
        if not condition:
            self._refuse(found)

    def _refuse(self, found: str) -> NoReturn:
        raise PickleError(f"holds {found} at byte {self.place}; expected tensors and plain values")


_NUMBERS = {pickle.BININT: "<i", pickle.BININT1: "<B", pickle.BININT2: "<H", pickle.BINFLOAT: ">d"}
_CONSTANTS = {pickle.NONE: None, pickle.NEWTRUE: True, pickle.NEWFALSE: False, pickle.EMPTY_TUPLE: ()}
_CONTAINERS: dict[bytes, type] = {pickle.EMPTY_LIST: list, pickle.EMPTY_DICT: dict}
_TUPLES = {pickle.TUPLE1: 1, pickle.TUPLE2: 2, pickle.TUPLE3: 3}
_PLAIN = (str, bytes, int, float, bool, type(None))
