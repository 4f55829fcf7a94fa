"""Files of `torch.save` and safetensors that would take memory, time or the process with them."""

import os
import pickle
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from shards.tensor_files import TensorFileError, check_safetensors_file, check_torch_file


def repack(path: Path, change: Callable[[str, bytes], bytes], method: int = zipfile.ZIP_STORED) -> None:
    """Write an archive again with the members that `change` makes of its members."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), change(name, data), compress_type=method)


def repickle(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Write an archive again with another pickle."""
    repack(path, lambda name, data: change(data) if name.endswith("/data.pkl") else data)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    torch.save({"a": torch.arange(3.0)}, tmp_path / "a.pt")
    return tmp_path / "a.pt"


def test_what_torch_saves_is_let_through(tmp_path: Path) -> None:
    network = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LSTM(2, 2), torch.nn.BatchNorm1d(2), torch.nn.PReLU())
    optimizer = torch.optim.AdamW(network.parameters())
    network[0](torch.ones(2, 3)).sum().backward()
    optimizer.step()
    shared = torch.ones(4, 6)
    kinds = (
        torch.float64,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
    )
    content = {
        "state_dict": network.state_dict(),
        "parameters": list(network.parameters()),
        "optimizer": optimizer.state_dict(),
        "kinds": {str(kind): torch.ones(2, dtype=kind) for kind in kinds},
        "others": [torch.ones(2) > 0, torch.ones(2, dtype=torch.complex64), torch.zeros(0, 3), torch.tensor(3.0)],
        "views": [shared, shared.T, shared[1:, ::2], shared.view(-1)],
        "plain": ("text", b"bytes", 1, -1, 2**40, 1e-4, None, True, {1: 2, (0, "a"): 3}, [[]], torch.float32),
        "things": [torch.Size([1, 2]), torch.device("cpu"), torch.device("cuda", 0), Counter({4: 1})],
        "ordered": OrderedDict(a=1),
    }
    torch.save(content, tmp_path / "a.pt")
    check_torch_file(tmp_path / "a.pt")
    found = torch.load(tmp_path / "a.pt", weights_only=True)
    assert found.keys() == content.keys()


def test_names_that_the_caller_has_made_harmless(path: Path) -> None:
    repickle(path, lambda _: b"\x80\x02}X\x01\x00\x00\x00acsome.where\nThing\nK\x01\x85R}bs.")
    check_torch_file(path, {"some.where.Thing"})
    with pytest.raises(TensorFileError, match=r"a/data.pkl: holds 'some.where.Thing' at byte 27; expected"):
        check_torch_file(path, {"some.where.Other"})


def _reduce(name: str, *arguments: bytes) -> bytes:
    """Return the pickle of {"a": name(*arguments)}."""
    return (
        b"\x80\x02}X\x01\x00\x00\x00a" + f"c{name}\n".replace(".", "\n").encode() + b"(" + b"".join(arguments) + b"tRs."
    )


def _claim(values: int, shape: bytes, stride: bytes = b"K\x01\x85", offset: bytes = b"K\x00") -> bytes:
    """Return the pickle of a tensor on storage 0, which has 3 values, that claims `values` there."""
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
    number = b"\x8a\x08" + values.to_bytes(8, "little")
    hooks = b"ccollections\nOrderedDict\n)R"
    tensor = (
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + number + b"tQ" + offset + shape + stride + b"\x89" + hooks
    )
    return b"\x80\x02}X\x01\x00\x00\x00a" + tensor + b"tRs."


HUGE = b"\x8a\x06" + (10**12).to_bytes(6, "little")
HOSTILE: dict[str, tuple[bytes, str]] = {
    "memory by a call": (_reduce("builtins.bytearray", HUGE), "'builtins.bytearray'"),
    "memory by a tensor": (_reduce("torch.Tensor", HUGE), "'torch.Tensor'"),
    "code": (_reduce("posix.system", b"X\x04\x00\x00\x00true"), "'posix.system'"),
    "a key that takes for ever to hash": (
        b"\x80\x02})" + b"q\x00h\x00\x86" * 40 + b"K\x01s.", "a key that is no plain value"
    ),
    "values behind the member": (
        _claim(10**9, HUGE + b"\x85"), "storage '0' claims 1000000000 values, its member has 12 bytes"
    ),
    "one value many times": (_claim(3, HUGE + b"\x85", b"K\x00\x85"), "a tensor of 1000000000000 values"),
    "values behind the storage": (_claim(3, b"K\x03\x85", b"K\x02\x85"), "of 3 values from 0 to 4, its storage has 3"),
    "values from behind": (_claim(3, b"K\x01\x85", offset=b"K\x03"), "of 1 values from 3 to 3, its"),
    "values from before": (_claim(3, b"K\x01\x85", offset=b"J\xff\xff\xff\xff"), "a tensor with a size that is none"),
    "a storage that is none": (
        _claim(3, b"K\x01\x85").replace(b"X\x01\x00\x00\x000X", b"X\x01\x00\x00\x009X"), "its member has none bytes"
    ),
    "many copies": (
        b"\x80\x02X\xff\xff\x0f\x00" + b"a" * 0xFFFFF + b"q\x01X\x06\x00\x00\x00latin1q\x02c_codecs\nencode\nq\x03"
        + b"h\x03h\x01h\x02\x86R" * 3 + b".", "more than 1048576 copied values"
    ),
    "many steps": (b"\x80\x02" + b"}" * 300_000, "more than 200000 steps"),
    "another protocol": (pickle.dumps({"a": 1}, protocol=4), "pickle protocol 4, expected 2"),
    "cut": (b"\x80\x02}X\xff\xff\xff\xffa", "cut or damaged at byte 8"),
    "empty": (b"", "cut or damaged at byte 0"),
    "no text": (b"\x80\x02}X\x01\x00\x00\x00\xff.", "cut or damaged"),
    "a name without an end": (b"\x80\x02ctorch", "cut or damaged"),
    "attributes": (b"\x80\x02}}b.", "attributes for what has none"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickle_is_refused(path: Path, name: str) -> None:
    data, message = HOSTILE[name]
    repickle(path, lambda _: data)
    with pytest.raises(TensorFileError, match=message):
        check_torch_file(path)


def test_tensor_that_nobody_tampered_with(path: Path) -> None:
    """Proves that the tensors above are refused for what they claim."""
    repickle(path, lambda _: _claim(3, b"K\x03\x85"))
    check_torch_file(path)
    assert torch.load(path, weights_only=True)["a"].tolist() == [0, 1, 2]


def test_pickle_that_is_too_long(path: Path) -> None:
    repickle(path, lambda _: b"\x80\x02X" + (9 << 20).to_bytes(4, "little") + bytes(9 << 20) + b".")
    with pytest.raises(TensorFileError, match="data.pkl has 9437192 bytes, expected at most 8388608"):
        check_torch_file(path)


def test_tensors_that_share_a_storage_too_often(path: Path) -> None:
    """Whoever copies them would take a thousand times the file."""
    tensor = torch.ones(10_000)
    torch.save([tensor[:] for _ in range(1_000)], path)
    with pytest.raises(TensorFileError, match="its tensors claim 40000000 bytes, the file has"):
        check_torch_file(path)
    torch.save([tensor[:] for _ in range(3)], path)
    check_torch_file(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressed_members_are_refused(path: Path, method: int) -> None:
    repack(path, lambda _, data: data, method)
    with pytest.raises(TensorFileError, match="member 'a/data.pkl' is compressed or encrypted"):
        check_torch_file(path)


def test_compression_that_only_the_member_itself_tells(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[8] = 8  # the method in the first header; the directory goes on saying that it is stored
    path.write_bytes(data)
    with pytest.raises(TensorFileError, match="does not begin as the directory says"):
        check_torch_file(path)


def _directory(data: bytearray) -> int:
    return data.rindex(b"PK\5\6")


def _claim_members(data: bytearray) -> None:
    end = _directory(data)
    data[end + 8 : end + 12] = b"\xfe\xff\xfe\xff"


def _overlap(data: bytearray) -> None:
    """Let the second entry of the directory name the first member, as bombs of overlapping members do."""
    first = data.index(b"PK\1\2")
    second = data.index(b"PK\1\2", first + 4)
    size = second - first
    data[second:second] = data[first:second].replace(b"data.pkl", b"dats.pkl")
    end = _directory(data)
    data[end + 8 : end + 12] = bytes([data[end + 8] + 1, 0]) * 2
    length = int.from_bytes(data[end + 12 : end + 16], "little") + size
    data[end + 12 : end + 16] = length.to_bytes(4, "little")


ARCHIVES: list[tuple[Callable[[bytearray], object], str]] = [
    (_claim_members, "65534 members, in a directory of"),
    (_overlap, "does not begin as the directory says|members of the archive overlap"),
    (lambda data: data.pop(), "no directory at the end"),
    (lambda data: data.clear(), "no zip archive"),
    (lambda data: data.__delitem__(slice(30, None)), "no directory at the end"),
    (lambda data: data.insert(0, 0), "no zip archive"),
    (lambda data: data.extend(b"more"), "no directory at the end"),
    (lambda data: data.__setitem__(slice(0, 4), b"\x80\x02}."), "no zip archive"),
]


@pytest.mark.parametrize(("change", "message"), ARCHIVES)
def test_damaged_archive_is_refused(tmp_path: Path, change: Callable[[bytearray], object], message: str) -> None:
    path = tmp_path / "a.pt"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in (("a/data.pkl", b"\x80\x02}."), ("a/version", b"3\n"), ("a/byteorder", b"little")):
            archive.writestr(zipfile.ZipInfo(name), data)
    check_torch_file(path)
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)
    with pytest.raises(TensorFileError, match=message):
        check_torch_file(path)


def test_members_that_differ_in_case_alone(tmp_path: Path) -> None:
    """They are one to PyTorch."""
    path = tmp_path / "a.pt"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("a/DATA.PKL", "a/data.pkl"):
            archive.writestr(zipfile.ZipInfo(name), b"\x80\x02}.")
    with pytest.raises(TensorFileError, match="member 'a/data.pkl' is there twice"):
        check_torch_file(path)


def test_archive_with_numbers_of_64_bits(tmp_path: Path) -> None:
    """As archives of more than 4 GiB have them."""
    path = tmp_path / "a.pt"
    torch.save({"a": torch.ones(3)}, path)
    data = bytearray(path.read_bytes())
    end = _directory(data)
    entry = data.rindex(b"PK\1\2", 0, end)
    name_bytes = int.from_bytes(data[entry + 28 : entry + 30], "little")
    extra_bytes = int.from_bytes(data[entry + 30 : entry + 32], "little")
    sizes = [int.from_bytes(data[entry + k : entry + k + 4], "little") for k in (24, 20, 42)]
    extra = b"\1\0\x18\0" + b"".join(size.to_bytes(8, "little") for size in sizes)
    for place in (24, 20, 42):
        data[entry + place : entry + place + 4] = b"\xff" * 4
    data[entry + 30 : entry + 32] = (extra_bytes + len(extra)).to_bytes(2, "little")
    at = entry + 46 + name_bytes + extra_bytes
    data[at:at] = extra
    end += len(extra)
    length = int.from_bytes(data[end + 12 : end + 16], "little") + len(extra)
    start = int.from_bytes(data[end + 16 : end + 20], "little")
    count = int.from_bytes(data[end + 8 : end + 10], "little")
    numbers = (count, count, length, start)
    end_64 = b"PK\6\6" + (44).to_bytes(8, "little") + bytes(12) + b"".join(n.to_bytes(8, "little") for n in numbers)
    locator = b"PK\6\7" + bytes(4) + end.to_bytes(8, "little") + (1).to_bytes(4, "little")
    data[end + 8 : end + 20] = b"\xff" * 12
    data[end:end] = end_64 + locator
    path.write_bytes(data)
    check_torch_file(path)
    assert torch.load(path, weights_only=True)["a"].tolist() == [1, 1, 1]
    data[at + 4 : at + 12] = (10**12).to_bytes(8, "little")  # the size in the extra field
    path.write_bytes(data)
    with pytest.raises(TensorFileError, match="has .* bytes that claim to be 1000000000000"):
        check_torch_file(path)


@pytest.mark.parametrize("check", [check_torch_file, check_safetensors_file])
def test_what_is_no_file(tmp_path: Path, check: Callable[[Path], None]) -> None:
    with pytest.raises(FileNotFoundError):
        check(tmp_path / "none")
    with pytest.raises(TensorFileError, match="no plain file"):
        check(tmp_path)
    os.mkfifo(tmp_path / "pipe")  # which would be waited for
    with pytest.raises(TensorFileError, match="no plain file"):
        check(tmp_path / "pipe")


def test_header_of_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.ones(3)}, path)
    check_safetensors_file(path)
    data = path.read_bytes()
    for changed, found in (
        (b"", "a header of 0 bytes in a file of 0"),
        (data[:20], "a header of 56 bytes in a file of 20|a header of .* bytes in a file of 20"),
        ((9 << 20).to_bytes(8, "little") + b" " * (9 << 20), "a header of 9437184 bytes in a file of 9437192"),
    ):
        path.write_bytes(changed)
        with pytest.raises(TensorFileError, match=f"{found}, expected a header of 1 to 8388608; damaged"):
            check_safetensors_file(path)
