"""Tests of model/weights/reference_weights.py."""

import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close

from model.network.config import ModelConfig
from model.network.song_model import SongModel
from model.weights.reference_weights import (
    WeightsError,
    export_reference,
    from_reference,
    key_map,
    load_reference,
    read_weights,
)
from model.weights.weights_file import CheckpointError, read_header, read_tensors
from tests.shards.damage import damage, measure

MakeModel = Callable[..., SongModel]


@pytest.mark.parametrize("conditioning", ["prepend", "adaln"])
def test_every_parameter_has_a_reference_name(
    tiny_config: ModelConfig, make_model: MakeModel, conditioning: str
) -> None:
    config = replace(tiny_config, time_conditioning=conditioning)
    assert key_map(config).keys() == dict(make_model(config).named_parameters()).keys()


@pytest.mark.parametrize("conditioning", ["prepend", "adaln"])
def test_export_and_import_are_inverse(
    tiny_config: ModelConfig, make_model: MakeModel, tmp_path: Path, conditioning: str
) -> None:
    config = replace(tiny_config, time_conditioning=conditioning)
    model = make_model(config)
    weights = export_reference(model)
    assert weights["nar_dit.layers.1.ff_norm.beta"].shape == (64,)
    released = {f"model.{key}": value for key, value in weights.items()} | {
        "vae.vae.decoder.layers.0.bias": torch.ones(1),
        "model.condition_provider.conditioners.prompt_wav.tokenizer.vae.encoder.beta": torch.ones(1),
    }
    save_file(released, tmp_path / "released.safetensors")
    torch.save({"state_dict": released}, tmp_path / "released.pt")
    for name in ("released.safetensors", "released.pt"):
        torch.manual_seed(1)
        other = SongModel(config)
        assert load_reference(other, tmp_path / name) == [
            "condition_provider.conditioners.prompt_wav.tokenizer.vae.encoder.beta",
            "vae.vae.decoder.layers.0.bias",
        ]
        for (key, found), expected in zip(other.named_parameters(), model.parameters(), strict=True):
            assert_close(found, expected, rtol=0, atol=0, msg=key)


def test_keys_are_those_of_the_reference(shared: Path) -> None:
    stats = json.loads((shared / "reference/reference_init_stats.json").read_text(encoding="utf-8"))
    for name, size in (("prepend", (128, 2, 3, 2, 16, 64, 8, 4, 256)), ("adaLN", (96, 3, 2, 2, 8, 32, 6, 2, 256))):
        dim, heads, lm_layers, dit_layers, block_frames, codes, channels, scale, features = size
        config = ModelConfig(
            dim=dim,
            num_heads=heads,
            lm_layers=lm_layers,
            dit_layers=dit_layers,
            block_frames=block_frames,
            codebook_size=codes,
            latent_channels=channels,
            ffn_scale=scale,
            time_features=features,
            time_conditioning=name.lower(),
        )
        weights = export_reference(SongModel(config))
        lyrics = "condition_provider.conditioners.lyrics.output_proj.weight"  # has its own vocabulary
        shapes = {key: list(value.shape) for key, value in weights.items() if key != lyrics}
        assert shapes == {key: entry["shape"] for key, entry in stats[name].items() if key != lyrics}


def test_what_does_not_fit_is_named(tiny_config: ModelConfig, make_model: MakeModel, tmp_path: Path) -> None:
    weights = export_reference(make_model())
    missing = {key: value for key, value in weights.items() if key != "bos_token"}
    with pytest.raises(WeightsError, match="1 keys are missing, first bos_token"):
        from_reference(missing, tiny_config)
    with pytest.raises(WeightsError, match="1 unknown keys, first surprise"):
        from_reference(weights | {"surprise": torch.zeros(1)}, tiny_config)
    with pytest.raises(WeightsError, match=r"pre_norm\.beta is expected to be all zeros"):
        from_reference(weights | {"nar_dit.layers.0.pre_norm.beta": torch.ones(64)}, tiny_config)
    with pytest.raises(WeightsError, match="1 unknown keys, first surprise.beta"):
        from_reference(weights | {"surprise.beta": torch.zeros(1)}, tiny_config)
    with pytest.raises(WeightsError, match="bos_token is of type torch.int8, expected floats"):
        from_reference(weights | {"bos_token": weights["bos_token"].to(torch.int8)}, tiny_config)
    with pytest.raises(WeightsError, match="bos_token holds values that are not finite"):
        from_reference(weights | {"bos_token": weights["bos_token"] / 0}, tiny_config)
    with pytest.raises(WeightsError, match="some keys stand there with and without 'model.'"):
        from_reference(weights | {"model.bos_token": weights["bos_token"]}, tiny_config)
    save_file(weights, tmp_path / "weights.safetensors")
    with pytest.raises(WeightsError, match=r"block_conv.1.weight has shape \(64, 12\), this model expects \(64, 16\)"):
        load_reference(SongModel(replace(tiny_config, latent_channels=4)), tmp_path / "weights.safetensors")


def test_files_that_are_no_weights_are_refused(make_model: MakeModel, tmp_path: Path) -> None:
    (tmp_path / "broken.safetensors").write_bytes(b"\x00" * 20)
    (tmp_path / "broken.pt").write_bytes(b"not a checkpoint")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"state_dict": {"a": 1}}, tmp_path / "numbers.pt")
    with pytest.raises(WeightsError, match="is missing"):
        load_reference(make_model(), tmp_path / "none.pt")
    for name in ("broken.safetensors", "broken.pt"):
        with pytest.raises(WeightsError, match="is not a file of weights"):
            load_reference(make_model(), tmp_path / name)
    for name in ("list.pt", "numbers.pt"):
        with pytest.raises(WeightsError, match="expected a dictionary of tensors"):
            load_reference(make_model(), tmp_path / name)


class Trap:
    """Runs code when unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("sprung"),))


def test_code_in_a_checkpoint_does_not_run(
    make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"a": Trap()}, "trap.pt")
    with pytest.raises(WeightsError, match="is not a file of weights"):
        load_reference(make_model(), Path("trap.pt"))
    assert not Path("sprung").exists()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_damaged_files_raise_nothing_but_their_own_error(tmp_path: Path, suffix: str) -> None:
    """Whatever zip, pickle and tensors make of bytes that changed. What is not refused is safe to use."""
    tensors = {"weight": torch.ones(3, 2), "bias": torch.zeros(2).half(), "scale": torch.ones(())}
    whole, path = tmp_path / f"whole{suffix}", tmp_path / f"damaged{suffix}"
    torch.save({"state_dict": tensors, "epoch": 3}, whole) if suffix == ".pt" else save_file(tensors, whole)
    readers: list[tuple[Callable[[Path], object], type[ValueError]]] = [(read_weights, WeightsError)]
    if suffix == ".safetensors":
        readers += [(lambda path: dict(read_tensors(path)), CheckpointError), (read_header, CheckpointError)]
    for read, expected in readers:
        num_refused = 0
        for changed in damage(whole.read_bytes(), 600):
            path.write_bytes(changed)
            try:
                found = read(path)
            except expected as error:
                message, num_refused = str(error), num_refused + 1
            else:
                values = found.values() if isinstance(found, dict) else []
                message = str([float(value.float().sum()) for value in values])
            assert "\n" not in message
        assert num_refused > 400


_READ = """
import torch
from model.weights.reference_weights import read_weights
torch.zeros(1)
def read(path):
    read_weights(path)
"""


def test_bombs_take_neither_memory_nor_time(tmp_path: Path) -> None:
    """A fifth of a megabyte that unpacks to a fifth of a gigabyte, and what PyTorch would rather map than unpack."""
    torch.save({"weight": torch.arange(3.0)}, tmp_path / "plain.pt")
    names = ["deflated.pt", "call.pt"]
    call = b"\x80\x02}X\x01\x00\x00\x00acbuiltins\nbytearray\n\x8a\x05" + (3 * 10**9).to_bytes(5, "little") + b"\x85Rs."
    with zipfile.ZipFile(tmp_path / "plain.pt") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for name, change, method in (
        (names[0], {"plain/data/0": bytes(200_000_000)}, zipfile.ZIP_DEFLATED),
        (names[1], {"plain/data.pkl": call}, zipfile.ZIP_STORED),
    ):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for member, content in (members | change).items():
                archive.writestr(member, content, method)
    for name, result in zip(names, measure(_READ, *(tmp_path / name for name in names)), strict=True):
        assert result["error"].startswith(f"WeightsError: {tmp_path / name} is not a file of weights: "), name
        assert result["seconds"] < 1, name
        assert result["mb"] < 50, name


def test_compressed_weights_are_refused(tmp_path: Path) -> None:
    """Mapped into memory, compressed bytes were taken for weights."""
    torch.save({"weight": torch.rand(1000)}, tmp_path / "plain.pt")
    with zipfile.ZipFile(tmp_path / "plain.pt") as plain, zipfile.ZipFile(tmp_path / "small.pt", "w") as small:
        for name in plain.namelist():
            method = zipfile.ZIP_DEFLATED if name.endswith("/data/0") else zipfile.ZIP_STORED
            small.writestr(name, plain.read(name), method)
    with pytest.raises(WeightsError, match=r"small.pt is not a file of weights: member 'plain/data/0' is compressed"):
        read_weights(tmp_path / "small.pt")


@pytest.mark.parametrize("content", [{1: torch.ones(1)}, {"state_dict": {2: torch.ones(1)}}])
def test_keys_that_are_no_names_are_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "numbers.pt")
    with pytest.raises(WeightsError, match="expected a dictionary of tensors"):
        read_weights(tmp_path / "numbers.pt")


def test_whitened_models_have_no_reference_form(make_model: MakeModel) -> None:
    model = make_model()
    model.set_latent_statistics(torch.zeros(3), torch.tensor([1.0, 1.0, 2.0]))
    with pytest.raises(WeightsError, match="trained on whitened latents"):
        export_reference(model)
