"""MuQ from files: the published settings at full size, strict loading, and settings that nobody should send."""

import hashlib
import json
import random
import re
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from pipeline.encoding.muq_weights import load_muq
from pipeline.model_files.errors import ModelFileError
from pipeline.model_files.tensors import WithoutInitialisation
from pipeline.quiet_libraries import without_weight_norm_warning

from .small_muq import CONFIG, DEPTH, HOP, WIDTH, make_audio, make_muq, run_muq, write_folder

PUBLISHED = Path(__file__).resolve().parents[2] / "hub" / "published" / "muq_large_msd_iter_config.json"
PUBLISHED_BYTES = 1_333_825_096  # of model.safetensors of OpenMuQ/MuQ-large-msd-iter
LAYER_KEY = "model.conformer.layers.1.ffn1.intermediate_dense.weight"


@pytest.fixture(scope="module")
def muq() -> Any:
    return make_muq()


@pytest.fixture(scope="module")
def folder(muq: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("muq")
    return write_folder(path, muq.state_dict())


def nest(**change: Any) -> dict[str, Any]:
    """Return what changes settings of the Conformer; None takes one away."""
    merged = CONFIG["w2v2_config"] | change
    return {"w2v2_config": {name: value for name, value in merged.items() if value is not None}}


# ---- the published model


def published_config() -> dict[str, Any]:
    content = PUBLISHED.read_bytes()
    assert hashlib.sha256(content).hexdigest().startswith("237335ee27d8fb95")
    config: dict[str, Any] = json.loads(content)
    return config


def write_sparse(path: Path, tensors: dict[str, torch.Tensor], values: dict[str, float]) -> None:
    """Write a safetensors file as the hub has it, all zeros but for the first number of some tensors."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    first: dict[str, int] = {}
    end = 0
    for name in sorted(tensors, key=lambda name: (tensors[name].dtype != torch.int64, name)):
        first[name], end = end, end + tensors[name].nbytes
        kind = "I64" if tensors[name].dtype == torch.int64 else "F32"
        header[name] = {"dtype": kind, "shape": list(tensors[name].shape), "data_offsets": [first[name], end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        start = file.tell()
        for name, value in values.items():
            file.seek(start + first[name])
            file.write(torch.tensor(value).numpy().tobytes())
        file.truncate(start + end)


@pytest.mark.skipif(psutil.virtual_memory().available < 6 << 30, reason="MuQ at full size takes some GB")
def test_the_published_muq_loads_at_full_size(tmp_path: Path) -> None:
    """Its names and sizes are those of the package, so a file of them has the size of the hub's to the byte."""
    from muq import MuQ, MuQConfig

    config = published_config()
    with torch.random.fork_rng(), WithoutInitialisation(), without_weight_norm_warning():
        tensors = MuQ(MuQConfig(**config)).state_dict()
    values = {
        "model.cls_token": 0.5,
        "model.conv.conv.0.conv1.weight": 1.5,
        "model.conformer.layers.5.ffn2.output_dense.weight": 2.5,
        "model.conformer.embed_positions.inv_freq": 3.5,
    }
    write_sparse(tmp_path / "model.safetensors", tensors, values)
    assert (tmp_path / "model.safetensors").stat().st_size == PUBLISHED_BYTES
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = load_muq(tmp_path, 6)
    state = model.state_dict()
    assert {name: state[name].flatten()[0].item() for name in values} == values
    assert model.config.conv_dim == 512
    assert model.config.encoder_dim == 1024
    assert len(model.model.conformer.layers) == 6
    assert sum(tensor.nbytes for tensor in state.values()) < 0.6 * PUBLISHED_BYTES
    with torch.inference_mode():
        assert model(torch.zeros(1, 50 * HOP)).hidden_states[6].shape == (1, 50, 1024)


def test_the_published_settings_mean_what_the_package_makes_of_them(tmp_path: Path) -> None:
    """Narrower, the rest as published: our loader leaves out settings that the Conformer does not read."""
    config = published_config() | {"conv_dim": 4, "encoder_dim": WIDTH, "encoder_depth": DEPTH, "codebook_size": 32}
    config["w2v2_config"] |= {"intermediate_size": 32, "num_conv_pos_embeddings": 4, "num_attention_heads": 2}
    muq, audio = make_muq(config), make_audio(40 * HOP)
    model = load_muq(write_folder(tmp_path, muq.state_dict(), config), DEPTH)
    torch.testing.assert_close(run_muq(model, audio, DEPTH), run_muq(muq, audio, DEPTH), rtol=0, atol=0)
    assert "conv_dim" not in model.config.w2v2_config


# ---- weights


def test_float16_and_old_weight_norm_names(muq: Any, tmp_path: Path) -> None:
    old_names = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    state = {}
    for key, value in muq.state_dict().items():
        head, found, tail = key.partition("parametrizations")
        key = head + old_names[found + tail] if found else key
        state[key] = value.half() if value.is_floating_point() else value
    model = load_muq(write_folder(tmp_path, state), DEPTH)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert not model.training
    audio = make_audio(30 * HOP)
    torch.testing.assert_close(run_muq(model, audio, DEPTH), run_muq(muq, audio, DEPTH), rtol=0, atol=0.05)


def test_settings_that_would_load_files_or_code_are_off(muq: Any, tmp_path: Path) -> None:
    write_folder(tmp_path, muq.state_dict(), CONFIG | {"is_flash": True, "resume_checkpoint": "x.pt"})
    config = load_muq(tmp_path, 1).config
    assert config.rvq_ckpt_path is None
    assert config.resume_checkpoint is None
    assert config.is_flash is False


def test_loading_leaves_random_numbers_alone(folder: Path) -> None:
    random.seed(5)
    torch.manual_seed(5)
    expected = (random.random(), torch.rand(1))
    random.seed(5)
    torch.manual_seed(5)
    load_muq(folder, 1)
    assert (random.random(), torch.rand(1)) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({LAYER_KEY: None}, f"{LAYER_KEY} is missing"),
        ({"model.extra": torch.zeros(2)}, r"model\.extra is unexpected"),
        ({LAYER_KEY: torch.zeros(5, WIDTH)}, r"has shape \(5, 16\), expected \(32, 16\)"),
        ({LAYER_KEY: torch.full((32, WIDTH), torch.nan)}, "not finite"),
        ({"model.cls_token": torch.zeros(3)}, "encoder_dim 16, model.cls_token has"),
        ({"model.conformer.layers.2.x": torch.zeros(3)}, "encoder_depth 2, the weights have 3 layers"),
        (
            {"model.conformer.pos_conv_embed.conv.weight_g": torch.zeros(1, 1, 3)},
            "1 tensors twice, under two spellings",
        ),
    ],
    ids=["missing", "extra", "shape", "nan", "width", "depth", "twice"],
)
@pytest.mark.parametrize("layer", [1, DEPTH])
def test_weights_that_do_not_fit(muq: Any, tmp_path: Path, change: dict[str, Any], message: str, layer: int) -> None:
    """Also in layers that are cut off."""
    state = {key: value for key, value in {**muq.state_dict(), **change}.items() if value is not None}
    with pytest.raises(ModelFileError, match=message):
        load_muq(write_folder(tmp_path, state), layer)


def test_missing_and_damaged_files(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"config\.json"):
        load_muq(tmp_path, 1)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(ModelFileError, match=r"model\.safetensors: .*; expected MuQ's weights"):
        load_muq(tmp_path, 1)
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-10])
    with pytest.raises(ModelFileError, match=r"model\.safetensors: .*; expected MuQ's weights"):
        load_muq(tmp_path, 1)


def test_layer_out_of_range(folder: Path) -> None:
    with pytest.raises(ModelFileError, match="no hidden state 3, MuQ has 0 to 2"):
        load_muq(folder, 3)


# ---- settings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder_dim": 10**9}, "encoder_dim 1000000000, model.cls_token has (16,)"),
        ({"encoder_depth": 10**9}, "encoder_depth 1000000000, the weights have 2 layers"),
        ({"conv_dim": [4]}, "conv_dim [4], model.conv.conv.0.conv1.weight has (4,)"),
        ({"colour": "red"}, "settings ['colour'] that MuQ does not know"),
        ({"codebook_dim": 10**12}, "codebook_dim 1000000000000, expected a whole number from 0 to"),
        ({"rvq_n_codebooks": -1}, "rvq_n_codebooks -1, expected a whole number from 0 to 64"),
        ({"rvq_multi_layer_num": 10_000}, "rvq_multi_layer_num 10000, expected a whole number from 0 to 64"),
        ({"num_codebooks": True}, "num_codebooks True, expected a whole number"),
        ({"recon_loss_ratio": "x"}, "recon_loss_ratio 'x', expected a number from 0"),
        ({"hop_length": 480}, "hop_length 480, expected 240"),
        ({"n_mels": 10**9}, "n_mels 1000000000, expected 128"),
        ({"features": ["chromagram"]}, "features ['chromagram'], expected ['melspec_2048']"),
        ({"stat": {}}, "stat.melspec_2048_mean None, expected a number"),
        ({"stat": {"melspec_2048_mean": 1, "melspec_2048_std": 0}}, "stat.melspec_2048_std 0, expected a number"),
        ({"use_encodec_target": True}, "use_encodec_target needs a model that is downloaded"),
        ({"w2v2_config": 7}, "w2v2_config 7, expected an object"),
        ({"w2v2_config": {}}, "w2v2_config.position_embeddings_type None, expected relative or rotary"),
    ],
)
def test_settings_that_do_not_fit(muq: Any, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    write_folder(tmp_path, muq.state_dict(), CONFIG | change)
    with pytest.raises(ModelFileError, match=rf"config\.json: {re.escape(message)}"):
        load_muq(tmp_path, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"intermediate_size": 10**12}, ".intermediate_size 1000000000000, expected a whole number from 1 to"),
        ({"num_conv_pos_embeddings": 10**9}, ".num_conv_pos_embeddings 1000000000, expected a whole number from 1 to"),
        ({"num_attention_heads": 0}, ".num_attention_heads 0, expected a whole number from 1 to"),
        ({"conv_depthwise_kernel_size": 7.0}, ".conv_depthwise_kernel_size 7.0, expected a whole number"),
        ({"hidden_dropout": 2}, ".hidden_dropout 2, expected a number from 0 to 1"),
        ({"layer_norm_eps": float("nan")}, ".layer_norm_eps nan, expected a number from 0 to 1"),
        ({"rotary_embedding_base": 0}, ".rotary_embedding_base 0, expected a number from 1 to"),
        ({"hidden_act": ["swish"]}, ".hidden_act ['swish'], expected the name of a function"),
        ({"hidden_act": None}, " lacks hidden_act"),
        ({"position_embeddings_type": ["rotary"]}, ".position_embeddings_type ['rotary'], expected relative or rotary"),
        ({"position_embeddings_type": "relative"}, " lacks max_source_positions"),
        (
            {"position_embeddings_type": "relative", "max_source_positions": 10**9},
            ".max_source_positions 1000000000, expected a whole number from 1 to 65536",
        ),
        ({"colour": "red"}, " has settings ['colour'] that a Conformer does not know"),
    ],
)
def test_settings_of_the_conformer_that_do_not_fit(
    muq: Any, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    write_folder(tmp_path, muq.state_dict(), CONFIG | nest(**change))
    with pytest.raises(ModelFileError, match=rf"config\.json: w2v2_config{re.escape(message)}"):
        load_muq(tmp_path, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"intermediate_size": 30}, r"has shape \(32, 16\), expected \(30, 16"),
        ({"num_attention_heads": 3}, "3 attention heads for a width of 16, expected an even width for each"),
        ({"hidden_act": "colour"}, r"cannot be built from config\.json: .*colour"),
    ],
)
def test_settings_that_fit_neither_the_weights_nor_each_other(
    muq: Any, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelFileError, match=message):
        load_muq(write_folder(tmp_path, muq.state_dict(), CONFIG | nest(**change)), 1)


def test_settings_that_only_other_models_read_are_left_out(muq: Any, tmp_path: Path) -> None:
    """The published file lists all of wav2vec 2.0's, among them a `conv_dim` that is not MuQ's."""
    write_folder(tmp_path, muq.state_dict(), CONFIG | nest(conv_dim=[10**12] * 7, hidden_size=10**12, vocab_size=-1))
    assert load_muq(tmp_path, 1).config.conv_dim == 4
