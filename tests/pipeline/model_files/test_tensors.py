"""Files of weights: what is not safetensors is refused unread, and every tensor is compared before it is taken."""

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from pipeline.encoding.codebook import Codebook
from pipeline.encoding.semantic_tokens import load_muq
from pipeline.model_files.errors import ModelFileError
from pipeline.model_files.names import MINIATURE_FOLDER
from pipeline.model_files.tensors import check_tensors, read_safetensors, read_torch_file
from tests.shards.damage import damage, measure


class Payload:
    """Runs code when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("stage", ["muq", "codebook"])
@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_a_pickle_in_place_of_the_weights_is_refused_and_never_run(tmp_path: Path, stage: str, how: str) -> None:
    target, weights = tmp_path / "executed", tmp_path / "model.safetensors"
    (tmp_path / "config.json").write_bytes((MINIATURE_FOLDER / stage / "config.json").read_bytes())
    if how == "torch":
        torch.save(Payload(target), weights)
    else:
        weights.write_bytes(pickle.dumps(Payload(target)))
    with pytest.raises(ModelFileError, match=r"model\.safetensors: .*expected .* as safetensors"):
        load_muq(tmp_path, 1) if stage == "muq" else Codebook.load(tmp_path)
    assert not target.exists()
    pickle.loads(pickle.dumps(Payload(target)))
    assert target.exists()  # so the payload would have worked


def test_a_header_that_promises_more_than_the_file_holds_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    header = b'{"x":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ModelFileError, match=r"model\.safetensors"):
        read_safetensors(path, "weights")
    path.write_bytes((1 << 60).to_bytes(8, "little"))
    with pytest.raises(ModelFileError, match=r"model\.safetensors"):
        read_safetensors(path, "weights")
    with pytest.raises(ModelFileError, match="expected weights as safetensors"):
        read_safetensors(tmp_path / "none.safetensors", "weights")


@pytest.mark.parametrize("root", ["state_dict", None])
def test_a_file_of_torch_may_hold_its_tensors_under_a_key(tmp_path: Path, root: str | None) -> None:
    tensors = {"weight": torch.ones(2, 3), "bias": torch.zeros(2)}
    torch.save({root: tensors, "epoch": 3} if root else tensors, tmp_path / "weights.bin")
    found = read_torch_file(tmp_path / "weights.bin", "weights")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[key], tensors[key]) for key in tensors)


@pytest.mark.parametrize("damage", [0, 1, 100, -1])
def test_other_and_damaged_files_of_torch_are_refused_and_never_run(tmp_path: Path, damage: int) -> None:
    path, target = tmp_path / "weights.bin", tmp_path / "executed"
    torch.save({"weight": torch.ones(200)}, path)
    path.write_bytes(path.read_bytes()[:damage])
    with pytest.raises(ModelFileError, match=r"weights\.bin: .*expected the weights of this test"):
        read_torch_file(path, "the weights of this test")
    for content in (Payload(target), {"weight": [1.0]}, [torch.ones(1)], {"state_dict": 3}):
        torch.save(content, path)
        with pytest.raises(ModelFileError, match=r"weights\.bin: .*expected the weights of this test"):
            read_torch_file(path, "the weights of this test")
    with pytest.raises(ModelFileError, match="none"):
        read_torch_file(tmp_path / "none.bin", "weights")
    assert not target.exists()


def test_damaged_files_raise_nothing_but_the_error_of_a_model_file(tmp_path: Path) -> None:
    """Whatever zip, pickle and tensors make of bytes that changed. What is not refused is safe to use."""
    network = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    torch.save({"state_dict": network.state_dict(), "epoch": 3}, tmp_path / "whole.pt")
    save_file(network.state_dict(), tmp_path / "whole.safetensors")
    for suffix, read in ((".pt", read_torch_file), (".safetensors", read_safetensors)):
        path, num_refused = tmp_path / f"damaged{suffix}", 0
        for changed in damage((tmp_path / f"whole{suffix}").read_bytes(), 800):
            path.write_bytes(changed)
            try:
                tensors = read(path, "the weights of this test")
            except ModelFileError as error:
                message, num_refused = str(error), num_refused + 1
            else:
                message = str([float(tensor.float().sum()) for tensor in tensors.values()])
            assert "\n" not in message
        assert num_refused > 550, suffix


_READ = """
import torch
from pipeline.model_files.tensors import read_safetensors, read_torch_file
torch.zeros(1)
def read(path):
    read = read_safetensors if path.suffix == ".safetensors" else read_torch_file
    read(path, "the weights of this test")
"""


def test_bombs_take_neither_memory_nor_time(tmp_path: Path) -> None:
    """A thousandth of what it is unpacked, a call that takes memory, a claim that would end the process."""
    torch.save({"weight": torch.arange(3.0)}, tmp_path / "plain.pt")
    with zipfile.ZipFile(tmp_path / "plain.pt") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    start = b"\x80\x02}X\x01\x00\x00\x00a"
    pickles = {
        "compressed": members["plain/data.pkl"],
        "call": start + b"cbuiltins\nbytearray\n\x8a\x05" + (3 * 10**9).to_bytes(5, "little") + b"\x85Rs.",
        "hash": b"\x80\x02})" + b"q\x00h\x00\x86" * 40 + b"K\x01s.",
        "claim": members["plain/data.pkl"].replace(b"K\x03", b"J\x00\x00\x00\x01"),  # of 16 million values
        "repeated": members["plain/data.pkl"].replace(b"K\x03\x85", b"J\x00\x00\x00\x7f\x85").replace(
            b"K\x01\x85", b"K\x00\x85"
        ),
    }  # fmt: skip
    for name, data in pickles.items():
        is_compressed = name == "compressed"
        with zipfile.ZipFile(tmp_path / f"{name}.pt", "w") as archive:
            for member, content in (members | {"plain/data.pkl": data}).items():
                values = bytes(200_000_000) if is_compressed and member == "plain/data/0" else content
                archive.writestr(member, values, zipfile.ZIP_DEFLATED if is_compressed else zipfile.ZIP_STORED)
    entries = (b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % number for number in range(200_000))
    header = b"{" + b",".join(entries) + b"}"
    (tmp_path / "many.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    names = [*(f"{name}.pt" for name in pickles), "many.safetensors"]
    results = measure(_READ, *(tmp_path / name for name in names))
    for name, result in zip(names, results, strict=True):
        assert result["error"].startswith(f"ModelFileError: {tmp_path / name}: "), name
        assert result["seconds"] < 1, name
        assert result["mb"] < 50, name


@pytest.mark.parametrize("kind", [torch.float8_e5m2, torch.complex64])
def test_numbers_of_another_kind_are_refused_by_name(tmp_path: Path, kind: torch.dtype) -> None:
    """PyTorch cannot even say whether those of eight bits are finite."""
    save_file({"weight": torch.ones(2, 3).to(kind), "bias": torch.ones(2)}, tmp_path / "a.safetensors")
    tensors = read_safetensors(tmp_path / "a.safetensors", "weights")
    with pytest.raises(ModelFileError, match=f"weight is {kind}, expected floating-point numbers"):
        check_tensors(tensors, torch.nn.Linear(3, 2).state_dict(), tmp_path / "a.safetensors")


def test_every_problem_has_its_key_with_found_and_expected(tmp_path: Path) -> None:
    with torch.device("meta"):
        expected = torch.nn.Linear(3, 2).state_dict() | {"count": torch.zeros((), dtype=torch.int64)}
    good = {"weight": torch.ones(2, 3).half(), "bias": torch.ones(2), "count": torch.tensor(1)}
    check_tensors(good, expected, tmp_path / "a")
    for change, message in (
        ({"bias": torch.ones(3)}, r"a does not fit its config: bias has shape \(3,\), expected \(2,\)$"),
        ({"bias": torch.tensor([1, 2])}, r"bias is torch\.int64, expected floating-point numbers"),
        ({"count": torch.tensor(1.0)}, r"count is torch\.float32, expected whole numbers"),
        ({"bias": torch.tensor([1, torch.inf])}, "bias holds values that are not finite"),
        ({"more": torch.ones(1)}, "more is unexpected"),
    ):
        with pytest.raises(ModelFileError, match=message):
            check_tensors(good | change, expected, tmp_path / "a")
    with pytest.raises(ModelFileError, match="weight is missing; bias is missing; count is missing"):
        check_tensors({}, expected, tmp_path / "a")
    with pytest.raises(ModelFileError, match="and 5 more"):
        check_tensors(good | {f"x{k}": torch.ones(1) for k in range(10)}, expected, tmp_path / "a")


def test_a_codebook_names_its_file_and_tensor(tmp_path: Path) -> None:
    tensors = {
        "project_in": torch.ones(2, 4), "center": torch.ones(4), "codes": torch.ones(3, 2),
        "project_out": torch.ones(4, 2), "bias_out": torch.ones(4),
    }  # fmt: skip
    (tmp_path / "config.json").write_text('{"feature_dim": 4, "codebook_dim": 2, "codebook_size": 3}')
    for change, message in (
        (
            SimpleNamespace(center=torch.ones(5)),
            r"model\.safetensors: .*center has shape \(5,\), expected \(4,\)",
        ),
        (SimpleNamespace(bias_out=torch.ones(4, dtype=torch.int32)), r"model\.safetensors: .*bias_out holds"),
        (
            SimpleNamespace(codes=torch.ones(70_000, 2)),
            r"model\.safetensors: .*70000 codes, expected 1 to 65536",
        ),
    ):
        save_file(tensors | vars(change), tmp_path / "model.safetensors")
        with pytest.raises(ModelFileError, match=message):
            Codebook.load(tmp_path)
