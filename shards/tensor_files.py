"""Files of tensors by others, judged before a library reads them: without PyTorch, and without running anything.

`torch.load(weights_only=True)` runs no code of a file, yet a small file can make it hang (keys that take for ever to
hash), fill the memory (compressed members, `bytearray(10**12)`) or end the process (a tensor larger than its member).
So the archive and the pickle in it are gone through here first, and only what `torch.save` writes of tensors and plain
values is let through. This stands in shards/ because pipeline/ and model/ both read such files.
Sources: the zip format (PKWARE's APPNOTE), the format of safetensors.
"""

import pickle
import struct
from collections.abc import Collection
from pathlib import Path

from shards.storage import LocalSource
from shards.tensor_pickle import PickleError, count_tensor_bytes

# Far above any checkpoint, far below what takes long: the released model has 1,500 tensors, each a member.
MAX_HEADER_BYTES = 8 * 2**20  # of safetensors, about 100 for each tensor
MAX_MEMBERS = 32_768
MAX_DIRECTORY_BYTES = 8 * 2**20
MAX_PICKLE_BYTES = 8 * 2**20
MAX_SHARING = 4  # bytes of all tensors to those of the file: a storage may belong to several tensors

# What `torch.load` raises for damaged files that pass: zip, pickle and tensors each have their own errors.
LOAD_ERRORS = (
    *(OSError, EOFError, RuntimeError, ValueError, LookupError, TypeError, AttributeError, AssertionError),
    *(ArithmeticError, MemoryError, struct.error, pickle.UnpicklingError),
)

_END = struct.Struct("<4s4H2LH")  # of central directory
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR_64 = struct.Struct("<4sLQL")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_UINT32_MAX = 2**32 - 1


class TensorFileError(ValueError):
    """A file that its format does not allow, or that holds more than tensors and plain values."""


def check_safetensors_file(path: Path) -> None:
    """Raise unless the header of a safetensors file is short enough to be read in no time.

    Raises:
        TensorFileError: too short for a header, or the header is too long; the rest is for the library to judge.
        OSError: it cannot be read.
    """
    source = _open(path)
    length = int.from_bytes(source.read_at(0, 8).tobytes(), "little")
    if not 0 < length <= min(MAX_HEADER_BYTES, source.num_bytes - 8):
        found = f"a header of {length} bytes in a file of {source.num_bytes}"
        raise TensorFileError(f"{found}, expected a header of 1 to {MAX_HEADER_BYTES}; damaged, or no safetensors")


def check_torch_file(path: Path, also: Collection[str] = ()) -> None:
    """Raise unless `torch.load(path, weights_only=True)` takes memory and time in proportion to the file, and no more.

    Args:
        path: a file.
        also: full names of classes that the file may use besides tensors; the caller has to make them harmless.

    Raises:
        TensorFileError: no archive of stored members (files before PyTorch 1.6 are none), damaged, or with more in it.
        OSError: it cannot be read.
    """
    source = _open(path)
    members = _read_members(source)
    name = next(iter(members)).partition("/")[0] + "/data.pkl"
    if name not in members:
        raise TensorFileError(f"the archive has no member {name}")
    start, num_bytes = members[name]
    if num_bytes > MAX_PICKLE_BYTES:
        raise TensorFileError(f"{name} has {num_bytes} bytes, expected at most {MAX_PICKLE_BYTES}")
    storages = name.removesuffix(".pkl") + "/"
    storage_bytes = {member.removeprefix(storages): size for member, (_, size) in members.items()}
    try:
        tensor_bytes = count_tensor_bytes(source.read_at(start, num_bytes).tobytes(), storage_bytes, also)
    except PickleError as error:
        raise TensorFileError(f"{name}: {error}") from error
    if tensor_bytes > MAX_SHARING * source.num_bytes:
        raise TensorFileError(f"its tensors claim {tensor_bytes} bytes, the file has {source.num_bytes}")


def _open(path: Path) -> LocalSource:
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise TensorFileError("no plain file")
    return LocalSource(path)


def _read_members(source: LocalSource) -> dict[str, tuple[int, int]]:
    """Return where the data of each member lies, and its size, in the order of the directory."""

    def read(start: int, num_bytes: int) -> bytes:
        data = source.read_at(start, num_bytes).tobytes() if 0 <= start else b""
        if len(data) != num_bytes:
            raise TensorFileError(f"the archive ends before byte {start + num_bytes}; it was cut")
        return data

    if source.read_at(0, 4).tobytes() != b"PK\3\4":
        raise TensorFileError("no zip archive, as PyTorch writes since 1.6; load and save it with a newer PyTorch")
    end = source.num_bytes - _END.size
    mark, *_, num_entries, directory_bytes, directory_start, _ = _END.unpack(read(end, _END.size))
    if mark != b"PK\5\6":
        raise TensorFileError("no directory at the end of the archive; it was cut")
    if end >= _LOCATOR_64.size:
        mark, _, end_64, _ = _LOCATOR_64.unpack(read(end - _LOCATOR_64.size, _LOCATOR_64.size))
        if mark == b"PK\6\7":
            mark, *_, num_entries, directory_bytes, directory_start = _END_64.unpack(read(end_64, _END_64.size))
            if mark != b"PK\6\6":
                raise TensorFileError("no directory where the archive says; it is damaged")
            end = end_64
    if not 0 < num_entries <= MAX_MEMBERS or directory_bytes > MAX_DIRECTORY_BYTES:
        found = f"{num_entries} members, in a directory of {directory_bytes} bytes"
        raise TensorFileError(f"{found}, expected 1 to {MAX_MEMBERS} and at most {MAX_DIRECTORY_BYTES}")
    if directory_start + directory_bytes > end:
        raise TensorFileError("the directory of the archive overlaps its end; it is damaged")
    directory = read(directory_start, directory_bytes)
    members: dict[str, tuple[int, int]] = {}
    seen: set[str] = set()
    spans: list[tuple[int, int]] = []
    place = 0
    for _ in range(num_entries):
        name, num_bytes, header_start, place = _read_entry(directory, place)
        if name.lower() in seen:  # PyTorch finds members whatever the case of their letters
            raise TensorFileError(f"member {name!r:.80} is there twice")
        seen.add(name.lower())
        header = read(header_start, _LOCAL.size)
        mark, _, _, method, *_, name_bytes, extra_bytes = _LOCAL.unpack(header)
        start = header_start + _LOCAL.size + name_bytes + extra_bytes
        if mark != b"PK\3\4" or method != 0 or read(header_start + _LOCAL.size, name_bytes) != name.encode():
            raise TensorFileError(f"member {name!r:.80} does not begin as the directory says; the file is damaged")
        members[name] = start, num_bytes
        spans.append((header_start, start + num_bytes))
    spans.sort()
    if any(end > start for (_, end), (start, _) in zip(spans, [*spans[1:], (directory_start, 0)], strict=True)):
        raise TensorFileError("members of the archive overlap; it is damaged")
    return members


def _read_entry(directory: bytes, place: int) -> tuple[str, int, int, int]:
    """Return name, size and place of the member whose entry is at `place`, and where the next entry is."""
    try:
        fields = _ENTRY.unpack_from(directory, place)
        mark, _, _, flags, method, _, _, _, packed, unpacked, name_bytes, extra_bytes, comment_bytes = fields[:13]
        place += _ENTRY.size
        name = directory[place : place + name_bytes].decode("ascii")
    except (struct.error, UnicodeDecodeError) as error:
        raise TensorFileError("the directory of the archive is cut or damaged") from error
    extra = directory[place + name_bytes : place + name_bytes + extra_bytes]
    next_place = place + name_bytes + extra_bytes + comment_bytes
    if mark != b"PK\1\2" or next_place > len(directory) or "/" not in name:
        raise TensorFileError("the directory of the archive is damaged")
    if method != 0 or flags & 1:
        raise TensorFileError(f"member {name!r:.80} is compressed or encrypted, expected it as PyTorch stores it")
    sizes = [unpacked, packed, fields[-1]]
    if _UINT32_MAX in sizes:
        sizes = _read_zip64(extra, sizes)
    unpacked, packed, header_start = sizes
    if unpacked != packed:
        raise TensorFileError(f"member {name!r:.80} has {packed} bytes that claim to be {unpacked}")
    return name, unpacked, header_start, next_place


def _read_zip64(extra: bytes, values: list[int]) -> list[int]:
    """Return the numbers with those that do not fit 32 bits taken from the extra field that holds them."""
    while len(extra) >= 4:
        kind, num_bytes = struct.unpack_from("<2H", extra)
        if kind == 1:
            num_missing = values.count(_UINT32_MAX)
            if 8 * num_missing > min(num_bytes, len(extra) - 4):
                break
            found = iter(struct.unpack_from(f"<{num_missing}Q", extra, 4))
            return [next(found) if value == _UINT32_MAX else value for value in values]
        extra = extra[4 + num_bytes :]
    raise TensorFileError("the directory of the archive lacks a size of 64 bits; it is damaged")
