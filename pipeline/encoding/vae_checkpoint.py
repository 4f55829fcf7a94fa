"""Oobleck VAE weights into diffusers' `AutoencoderOobleck`: strictly, safely, whichever of two layouts they come in.

diffusers' layout is a folder with its config.json and weights. stable-audio-tools' layout is a checkpoint (`.ckpt`,
read without unpickling objects, or safetensors) with a JSON beside it; every name is mapped, and what is missing, left
over or of another shape is an error that says the checkpoint's own key.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.model_files.config_files import read_config
from pipeline.model_files.errors import ModelFileError
from pipeline.model_files.stage_files import MissingFilesError, find_vae_files
from pipeline.model_files.tensors import check_tensors, read_safetensors, read_torch_file
from pipeline.quiet_libraries import without_weight_norm_warning
from shards.schema import LATENT_CHANNELS, LATENT_SAMPLE_RATE_HZ

RESIDUAL_DILATIONS = (1, 3, 9)  # of the three residual units in each block; fixed in both libraries
RESIDUAL_KERNEL = 7

_MAX_BLOCKS, _MAX_WIDTH, _MAX_RATE = 16, 1 << 16, 1_000_000
# Position of each part in the Sequential lists of stable-audio-tools.
_RESIDUAL_PARTS = {"snake1": 0, "conv1": 1, "snake2": 2, "conv2": 3}
_BLOCK_PARTS = {
    "encoder": {"res_unit1": 0, "res_unit2": 1, "res_unit3": 2, "snake1": 3, "conv1": 4},
    "decoder": {"snake1": 0, "conv_t1": 1, "res_unit1": 2, "res_unit2": 3, "res_unit3": 4},
}


@dataclass(frozen=True, kw_only=True, slots=True)
class OobleckConfig:
    """Shape of an Oobleck VAE; the defaults are SongBloom's "stable audio 1920"."""

    encoder_channels: int = 128
    decoder_channels: int = 128
    channel_multiples: tuple[int, ...] = (1, 2, 4, 8, 16)
    strides: tuple[int, ...] = (2, 4, 4, 6, 10)
    latent_channels: int = LATENT_CHANNELS
    audio_channels: int = 2
    sample_rate: int = LATENT_SAMPLE_RATE_HZ

    def __post_init__(self) -> None:
        """Refuse what could not be built."""
        if not 1 <= len(self.strides) == len(self.channel_multiples) <= _MAX_BLOCKS:
            raise ModelFileError(
                f"VAE config: {len(self.strides)} strides and {len(self.channel_multiples)} channel multiples, "
                f"expected as many of both, 1 to {_MAX_BLOCKS}"
            )
        if max(self.encoder_channels, self.decoder_channels) * max(self.channel_multiples) > _MAX_WIDTH:
            raise ModelFileError(f"VAE config: more than {_MAX_WIDTH} channels in {self}")
        if any(stride < 2 or stride % 2 for stride in self.strides):
            raise ModelFileError(f"VAE config: strides {self.strides}, expected even numbers: others shift the clock")

    @property
    def hop_length(self) -> int:
        """Samples per latent frame."""
        return math.prod(self.strides)


def load_oobleck(path: Path) -> tuple[Any, OobleckConfig]:  # AutoencoderOobleck; diffusers is untyped
    """Load a VAE in float32 on the CPU, for inference, with its weight norm folded in.

    Args:
        path: a folder or a weights file. A checkpoint without a JSON beside it is taken for "stable audio 1920".

    Raises:
        ModelFileError: unsafe or damaged files, unknown settings, or weights that do not fit them.
    """
    try:
        weights, config_path = find_vae_files(path)
    except MissingFilesError as error:
        raise ModelFileError(f"{path}: {error}; expected the weights of a VAE and their config") from error
    config = OobleckConfig() if config_path is None else parse_config(read_config(config_path), config_path)
    read = read_safetensors if weights.suffix == ".safetensors" else read_torch_file
    tensors = _unify_keys(read(weights, "an Oobleck VAE"), weights)
    model = _build(config)
    model.load_state_dict(_match_tensors(model, tensors, config, weights), strict=True, assign=True)
    for module in model.modules():
        if hasattr(module, "weight_g"):
            nn.utils.remove_weight_norm(module)
    return model.eval().requires_grad_(False), config


def parse_config(config: Mapping[str, Any], path: Path) -> OobleckConfig:
    """Read the settings of either layout; unknown variants of the network are refused, not ignored."""
    try:
        if "model" in config:
            return _parse_stable_audio(config)
        return OobleckConfig(
            encoder_channels=_positive(config, "encoder_hidden_size"),
            decoder_channels=_positive(config, "decoder_channels"),
            channel_multiples=_positives(config, "channel_multiples"),
            strides=_positives(config, "downsampling_ratios"),
            latent_channels=_positive(config, "decoder_input_channels"),
            audio_channels=_positive(config, "audio_channels"),
            sample_rate=_positive(config, "sampling_rate"),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ModelFileError(f"{path}: not the config of an Oobleck VAE ({error!r})") from error
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}") from error


def _parse_stable_audio(config: Mapping[str, Any]) -> OobleckConfig:
    model = config["model"]
    encoder, decoder = model["encoder"]["config"], model["decoder"]["config"]
    latent_channels = _positive(model, "latent_dim")
    expected = {
        "encoder.type": (model["encoder"]["type"], "oobleck"),
        "decoder.type": (model["decoder"]["type"], "oobleck"),
        "bottleneck.type": (model["bottleneck"]["type"], "vae"),
        "encoder.use_snake": (encoder.get("use_snake", False), True),
        "decoder.use_snake": (decoder.get("use_snake", False), True),
        "decoder.final_tanh": (decoder.get("final_tanh", True), False),
        "decoder.use_nearest_upsample": (decoder.get("use_nearest_upsample", False), False),
        "encoder.antialias_activation": (encoder.get("antialias_activation", False), False),
        "decoder.antialias_activation": (decoder.get("antialias_activation", False), False),
        "encoder.latent_dim": (encoder["latent_dim"], 2 * latent_channels),
        "decoder.latent_dim": (decoder["latent_dim"], latent_channels),
        "decoder.strides": (decoder["strides"], encoder["strides"]),
        "decoder.c_mults": (decoder["c_mults"], encoder["c_mults"]),
        "decoder.out_channels": (decoder["out_channels"], encoder["in_channels"]),
    }
    for name, (found, wanted) in expected.items():
        if found != wanted:
            raise ModelFileError(f"{name} is {found!r}, expected {wanted!r}")
    return OobleckConfig(
        encoder_channels=_positive(encoder, "channels"),
        decoder_channels=_positive(decoder, "channels"),
        channel_multiples=_positives(encoder, "c_mults"),
        strides=_positives(encoder, "strides"),
        latent_channels=latent_channels,
        audio_channels=_positive(encoder, "in_channels"),
        sample_rate=_positive(config, "sample_rate"),
    )


def _positive(config: Mapping[str, Any], name: str) -> int:
    value = config[name]
    if type(value) is not int or not 1 <= value <= _MAX_RATE:
        raise ModelFileError(f"{name} is {value!r}, expected a positive whole number")
    return value


def _positives(config: Mapping[str, Any], name: str) -> tuple[int, ...]:
    if not isinstance(config[name], list):
        raise ModelFileError(f"{name} is {config[name]!r}, expected a list of numbers")
    return tuple(_positive({name: item}, name) for item in config[name][: _MAX_BLOCKS + 1])


def _unify_keys(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Drop what stands before "encoder." in every key ("autoencoder.", "vae.vae."); give weight norm its old names."""
    first = next((key for key in tensors if ".encoder." in f".{key}"), None)
    if first is None:
        raise ModelFileError(f"{path}: no key with 'encoder.' among {len(tensors)}: not the weights of a VAE")
    prefix = first[: f".{first}".index(".encoder.")]
    renamed = {}
    for key, value in tensors.items():
        new = key.removeprefix(prefix).replace("parametrizations.weight.original0", "weight_g")
        renamed[new.replace("parametrizations.weight.original1", "weight_v")] = value
    if len(renamed) != len(tensors):
        raise ModelFileError(f"{path}: {len(tensors) - len(renamed)} tensors twice, under two spellings")
    return renamed


def _build(config: OobleckConfig) -> Any:
    from diffusers import AutoencoderOobleck

    factory: Any = AutoencoderOobleck  # untyped
    # No memory is taken before the shapes are known to fit the weights.
    with torch.device("meta"), without_weight_norm_warning():
        model = factory(
            encoder_hidden_size=config.encoder_channels,
            downsampling_ratios=list(config.strides),
            channel_multiples=list(config.channel_multiples),
            decoder_channels=config.decoder_channels,
            decoder_input_channels=config.latent_channels,
            audio_channels=config.audio_channels,
            sampling_rate=config.sample_rate,
        )
        # diffusers gives the encoder `encoder_hidden_size` outputs, which is twice the latents in the big models only.
        width = config.encoder_channels * config.channel_multiples[-1]
        output = nn.Conv1d(width, 2 * config.latent_channels, kernel_size=3, padding=1)
        model.encoder.conv2 = nn.utils.weight_norm(output)
    return model


def _match_tensors(model: Any, tensors: dict[str, Tensor], config: OobleckConfig, path: Path) -> dict[str, Tensor]:
    is_stable_audio = any(key.startswith("encoder.layers.") for key in tensors)
    keys, expected = {}, {}
    for name, wanted in model.state_dict().items():
        keys[name] = _stable_audio_key(name, len(config.strides)) if is_stable_audio else name
        # stable-audio-tools keeps the two vectors of a Snake activation without their outer axes.
        is_snake = name.endswith((".alpha", ".beta"))
        expected[keys[name]] = wanted.reshape(-1) if is_stable_audio and is_snake else wanted
    check_tensors(tensors, expected, path)
    return {name: tensors[keys[name]].float().reshape(w.shape) for name, w in model.state_dict().items()}


def _stable_audio_key(name: str, num_blocks: int) -> str:
    """Return stable-audio-tools' key for diffusers' name of a tensor."""
    side, *parts = name.split(".")
    if parts[0] != "block":
        outer = {"conv1": 0, "snake1": num_blocks + 1, "conv2": num_blocks + 2}
        return f"{side}.layers.{outer[parts[0]]}.{parts[1]}"
    block, part, *inner = parts[1:]
    key = f"{side}.layers.{int(block) + 1}.layers.{_BLOCK_PARTS[side][part]}"
    if part.startswith("res_unit"):
        key += f".layers.{_RESIDUAL_PARTS[inner.pop(0)]}"
    return f"{key}.{inner[0]}"


def context_frames(strides: tuple[int, ...]) -> tuple[int, int]:
    """Return how many frames on each side a latent depends on in the encoder, and a frame of audio in the decoder.

    The reach of every convolution is followed back from one output frame; the larger side counts.
    """
    hop_length = math.prod(strides)
    first = last = 0
    for kernel, stride, dilation, padding in reversed(list(_encoder_convolutions(strides))):
        first = first * stride - padding
        last = last * stride - padding + dilation * (kernel - 1)
    encoder = max(math.ceil(-first / hop_length), last // hop_length)
    residual_reach = sum(RESIDUAL_DILATIONS) * (RESIDUAL_KERNEL // 2)
    first, last = -(RESIDUAL_KERNEL // 2), hop_length - 1 + RESIDUAL_KERNEL // 2  # of the output convolution
    for stride in strides:  # the decoder's last block has the first stride
        first, last = first - residual_reach, last + residual_reach
        padding = math.ceil(stride / 2)
        first, last = math.ceil((first + padding - (2 * stride - 1)) / stride), (last + padding) // stride
    decoder = max(-first, last) + RESIDUAL_KERNEL // 2  # of the input convolution
    return encoder, decoder


def _encoder_convolutions(strides: tuple[int, ...]) -> Iterator[tuple[int, int, int, int]]:
    """Yield kernel, stride, dilation and padding of the encoder's convolutions, in order."""
    yield RESIDUAL_KERNEL, 1, 1, RESIDUAL_KERNEL // 2
    for stride in strides:
        for dilation in RESIDUAL_DILATIONS:
            yield RESIDUAL_KERNEL, 1, dilation, dilation * (RESIDUAL_KERNEL // 2)
        yield 2 * stride, stride, 1, math.ceil(stride / 2)
    yield 3, 1, 1, 1
