"""Files of weights: what is not safetensors is refused unread, and every tensor is compared before it is taken."""

import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from pipeline.codebook import Codebook
from pipeline.model_files.errors import ModelFileError
from pipeline.model_files.names import MINIATURE_FOLDER
from pipeline.model_files.tensors import check_tensors, read_safetensors, read_torch_file
from pipeline.semantic_tokens import load_muq


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
