"""Weights with the names, shapes and types of the published models, and values of ours.

The separator passes what it hears on as the vocals, so that later steps have something to work on; the others hold
random numbers, as networks before their training do.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

State = dict[str, Tensor]

# As the training configuration of htdemucs gives them (demucs, conf/config.yaml and demucs/grids/mmi.py).
HTDEMUCS_SETTINGS: dict[str, Any] = {
    "sources": ["drums", "bass", "other", "vocals"],
    "audio_channels": 2,
    "samplerate": 44_100,
    "segment": {"_type": "fraction", "numerator": 39, "denominator": 5},
    **{"channels": 48, "channels_time": None, "growth": 2},
    **{"nfft": 4096, "wiener_iters": 0, "end_iters": 0, "wiener_residual": False, "cac": True},
    **{"depth": 4, "rewrite": True},
    **{"multi_freqs": [], "multi_freqs_depth": 3, "freq_emb": 0.2, "emb_scale": 10, "emb_smooth": True},
    **{"kernel_size": 8, "stride": 4, "time_stride": 2, "context": 1, "context_enc": 0},
    **{"norm_starts": 4, "norm_groups": 4},
    **{"dconv_mode": 3, "dconv_depth": 2, "dconv_comp": 8, "dconv_init": 1e-3},
    "bottom_channels": 512,
    **{"t_layers": 5, "t_hidden_scale": 4.0, "t_heads": 8, "t_dropout": 0.02, "t_layer_scale": True, "t_gelu": True},
    **{"t_emb": "sin", "t_max_positions": 10_000, "t_max_period": 10_000.0, "t_weight_pos_embed": 1.0},
    **{"t_cape_mean_normalize": True, "t_cape_augment": True, "t_cape_glob_loc_scale": [5000.0, 1.0, 1.4]},
    "t_sin_random_shift": 0,
    **{"t_norm_in": True, "t_norm_in_group": False, "t_group_norm": False, "t_norm_first": True, "t_norm_out": True},
    **{"t_weight_decay": 0.0, "t_lr": None},
    **{"t_sparse_self_attn": False, "t_sparse_cross_attn": False, "t_mask_type": "diag", "t_mask_random_seed": 42},
    **{"t_sparse_attn_window": 400, "t_global_window": 100, "t_sparsity": 0.95, "t_auto_sparsity": False},
    **{"t_cross_first": False, "rescale": 0.1},
}
HTDEMUCS_METADATA = {
    "klass": "demucs.htdemucs.HTDemucs",
    "args": "[]",
    "kwargs": json.dumps(HTDEMUCS_SETTINGS),
}
_VOCALS, _STEREO, _STRIDE, _PAD = 3, 2, 4, 2  # of HTDemucs: place among the sources, and its first convolution
_ABOVE_ZERO, _OPEN = 32.0, 30.0  # where GELU is the identity, and a gate lets everything through

VAE_STRIDES, VAE_WIDTHS, VAE_LATENTS = (2, 4, 4, 6, 10), (128, 128, 256, 512, 1024, 2048), 64
# A checkpoint of PyTorch before 2.0 spells weight norm so.
_OLD_NAMES = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
_NOT_PUBLISHED = "wav2vec2.masked_spec_embed"  # newer than the checkpoint; transformers says so when it loads it


def htdemucs_state(device: str = "cpu") -> State:
    """Return a float16 state of `HTDEMUCS_SETTINGS` whose vocals are the mixture; on "meta" it holds no numbers."""
    from fractions import Fraction

    from demucs.htdemucs import HTDemucs

    with torch.device("meta"):  # the two settings concern the start of a training, and cannot be computed there
        model = HTDemucs(**HTDEMUCS_SETTINGS | {"segment": Fraction(39, 5), "emb_smooth": False, "rescale": 0})
    if device == "meta":
        return {name: value.half() for name, value in model.state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, value in model.state_dict().items():
        is_gain = value.ndim == 1 and name.endswith("weight")
        state[name] = torch.ones(value.shape) if is_gain else torch.randn(value.shape, generator=generator) / 50
        if name.endswith("scale") and "dconv" in name:
            state[name].zero_()
    _pass_on(state)
    return {name: value.half() for name, value in state.items()}


def _pass_on(state: State) -> None:
    """Let the outermost layers of the branch over time carry the samples, and nothing else reach the output.

    The first convolution puts four samples of either channel into eight channels, its counterpart in the decoder
    writes them out as vocals through the skip connection between them.
    """
    encoder, decoder = "tencoder.0", "tdecoder.3"
    for name in ("tdecoder.2.conv_tr", "decoder.3.conv_tr", f"{encoder}.conv", f"{decoder}.conv_tr"):
        state[f"{name}.weight"].zero_()
        state[f"{name}.bias"].zero_()
    for channel in range(_STEREO):
        for sample in range(_STRIDE):
            carrier = channel * _STRIDE + sample
            state[f"{encoder}.conv.weight"][carrier, channel, _PAD + sample] = 1
            state[f"{encoder}.conv.bias"][carrier] = _ABOVE_ZERO
            state[f"{decoder}.conv_tr.weight"][carrier, _STEREO * _VOCALS + channel, _PAD + sample] = 1
    for layer, middle in ((encoder, 0), (decoder, 1)):
        weight, bias = state[f"{layer}.rewrite.weight"].zero_(), state[f"{layer}.rewrite.bias"]
        width = weight.shape[1]
        weight[:width, :, middle] = torch.eye(width)
        bias[:width] = -state[f"{encoder}.conv.bias"] if layer == encoder else 0
        bias[width:] = _OPEN


def muq_state(config: Path, device: str = "cpu") -> State:
    """Return the state of `muq.MuQ` as its config.json asks for."""
    import torchaudio
    from muq import MuQ, MuQConfig

    filters = torchaudio.functional.melscale_fbanks

    def on_cpu(*args: Any, **kwargs: Any) -> Tensor:  # it looks at its values, which "meta" has none of
        with torch.device("cpu"):
            return filters(*args, **kwargs)

    with patch("torchaudio.functional.melscale_fbanks", on_cpu), torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(0)
        state: State = MuQ(MuQConfig(**json.loads(config.read_text()))).state_dict()
    return state


def aligner_state(config: Path, device: str = "cpu") -> State:
    """Return the state of a `Wav2Vec2ForCTC` under the names that published checkpoints have."""
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(0)
        state = Wav2Vec2ForCTC(Wav2Vec2Config(**json.loads(config.read_text()))).state_dict()
    renamed = {}
    for name, value in state.items():
        for new, old in _OLD_NAMES.items():
            name = name.replace(new, old)
        renamed[name] = value
    renamed.pop(_NOT_PUBLISHED, None)
    return renamed


def vae_state(device: str = "cpu") -> State:
    """Return the state of SongBloom's VAE under the names of stable-audio-tools."""
    generator = torch.Generator().manual_seed(0)
    state: State = {}
    for name, shape in _vae_shapes():
        if device == "meta" or not name.endswith("weight_v"):
            state[name] = torch.zeros(shape, device=device)
            continue
        weight = torch.randn(shape, generator=generator) / math.sqrt(math.prod(shape[1:]))
        state[name.replace("weight_v", "weight_g")] = weight.flatten(1).norm(dim=1).reshape(-1, 1, 1)
        state[name] = weight
    return state


def _vae_shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the names and shapes of an Oobleck network as its description has them (arXiv:2404.10301)."""
    yield from _convolution("encoder.layers.0", VAE_WIDTHS[0], 2, 7)
    for block, stride in enumerate(VAE_STRIDES, 1):
        low, high, at = VAE_WIDTHS[block - 1], VAE_WIDTHS[block], f"encoder.layers.{block}.layers"
        yield from _residuals(at, low, first=0)
        yield from _snake(f"{at}.3", low)
        yield from _convolution(f"{at}.4", high, low, 2 * stride)
    yield from _snake("encoder.layers.6", VAE_WIDTHS[-1])
    yield from _convolution("encoder.layers.7", 2 * VAE_LATENTS, VAE_WIDTHS[-1], 3)
    yield from _convolution("decoder.layers.0", VAE_WIDTHS[-1], VAE_LATENTS, 7)
    for block, stride in enumerate(reversed(VAE_STRIDES), 1):
        high, low, at = VAE_WIDTHS[-block], VAE_WIDTHS[-block - 1], f"decoder.layers.{block}.layers"
        yield from _snake(f"{at}.0", high)
        yield f"{at}.1.weight_g", (high, 1, 1)  # transposed: inputs come first
        yield f"{at}.1.weight_v", (high, low, 2 * stride)
        yield f"{at}.1.bias", (low,)
        yield from _residuals(at, low, first=2)
    yield from _snake("decoder.layers.6", VAE_WIDTHS[0])
    yield from _convolution("decoder.layers.7", 2, VAE_WIDTHS[0], 7, has_bias=False)


def _residuals(at: str, width: int, *, first: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    for unit in range(first, first + 3):
        yield from _snake(f"{at}.{unit}.layers.0", width)
        yield from _convolution(f"{at}.{unit}.layers.1", width, width, 7)
        yield from _snake(f"{at}.{unit}.layers.2", width)
        yield from _convolution(f"{at}.{unit}.layers.3", width, width, 1)


def _snake(at: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{at}.alpha", (width,)
    yield f"{at}.beta", (width,)


def _convolution(
    at: str, outputs: int, inputs: int, kernel: int, *, has_bias: bool = True
) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{at}.weight_g", (outputs, 1, 1)
    yield f"{at}.weight_v", (outputs, inputs, kernel)
    if has_bias:
        yield f"{at}.bias", (outputs,)
