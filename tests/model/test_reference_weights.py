"""Tests of model/reference_weights.py."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close

from model.config import ModelConfig
from model.reference_weights import WeightsError, export_reference, from_reference, key_map, load_reference
from model.song_model import SongModel

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


def test_whitened_models_have_no_reference_form(make_model: MakeModel) -> None:
    model = make_model()
    model.set_latent_statistics(torch.zeros(3), torch.tensor([1.0, 1.0, 2.0]))
    with pytest.raises(WeightsError, match="trained on whitened latents"):
        export_reference(model)
