"""A small MuQ trained by masked prediction of quantised mel frames, blind to the absolute level by construction."""

from pathlib import Path
from typing import Any

import numpy as np
import soxr
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.miniatures.songs.instruments import SAMPLE_RATE as SONG_SAMPLE_RATE
from pipeline.miniatures.training.corpus import Stems
from pipeline.miniatures.training.loop import Schedule, fit, save_model

SAMPLE_RATE = 24000  # MuQ's own
WIDTH = 128
CONV_CHANNELS = 24
CONFIG: dict[str, Any] = {
    "label_rate": 25,
    "codebook_dim": 16,
    "codebook_size": 1024,
    "conv_dim": CONV_CHANNELS,
    "encoder_dim": WIDTH,
    "encoder_depth": 3,
    "w2v2_config": {
        "activation_dropout": 0.0,
        "attention_dropout": 0.0,
        "conformer_conv_dropout": 0.0,
        "conv_depthwise_kernel_size": 31,
        "feat_extract_activation": "gelu",
        "hidden_act": "swish",
        "hidden_dropout": 0.05,
        "intermediate_size": 2 * WIDTH,
        "layer_norm_eps": 1e-5,
        "layerdrop": 0.0,
        "num_attention_heads": 4,
        "num_conv_pos_embedding_groups": 16,
        "num_conv_pos_embeddings": 3,  # built but unused with rotary positions
        "position_embeddings_type": "rotary",
        "rotary_embedding_base": 10000,
    },
}
# Rows of the convolutions' output (4 mel bands each) that see the zero padding below the lowest band, and so the level.
PADDED_ROWS = 3
CROP_S = 8
BATCH_CROPS = 6
TARGET_RMS = 0.1  # level at which the targets are quantised
SCHEDULE = Schedule(steps=400, peak_lr=2e-3, average_decay=0.98)

Mono = NDArray[np.float32]  # [L], 24 kHz


def to_input(audio: NDArray[np.float32]) -> Mono:
    """Return what MuQ hears of a song [2, L] at 48 kHz: mono at 24 kHz."""
    return np.asarray(soxr.resample(audio.mean(0), SONG_SAMPLE_RATE, SAMPLE_RATE), dtype=np.float32)


def train(songs: list[Stems], folder: Path, *, seed: int, schedule: Schedule = SCHEDULE) -> None:
    """Train and save the model; the mean and deviation of the mel spectrogram are measured on the songs."""
    from muq import MuQ, MuQConfig

    rng = np.random.default_rng(seed)
    inputs = [(to_input(song.vocals), to_input(song.accompaniment)) for song in songs]
    config = CONFIG | {"stat": _measure_mel([vocals + band for vocals, band in inputs])}
    torch.manual_seed(seed)
    model = MuQ(MuQConfig(**config))
    torch.manual_seed(seed)  # the class seeds its quantizer itself
    _forget_level(model)

    def compute_loss(_: int) -> tuple[Tensor, dict[str, float]]:
        audio = torch.stack([_draw_crop(inputs, rng) for _ in range(BATCH_CROPS)])
        targets, _mel = model.model.get_targets(audio)
        masked, indices = model.model.masking(audio)
        logits, _hidden = model.model.get_predictions(masked)
        losses, accuracies = model.model.get_loss(logits, targets, indices)
        # The penalty keeps the first convolutions blind enough for the exact projection at the end.
        return losses["melspec_2048"] + _level_penalty(model), {"accuracy": float(accuracies["melspec_2048"])}

    model.load_state_dict(fit(model, compute_loss, schedule))
    _forget_level(model)
    save_model(folder, config, model.state_dict())


def _draw_crop(inputs: list[tuple[Mono, Mono]], rng: np.random.Generator) -> Tensor:
    vocals, band = inputs[rng.integers(len(inputs))]
    length = CROP_S * SAMPLE_RATE
    start = int(rng.integers(max(len(vocals) - length, 1)))
    crop = 10 ** (rng.uniform(-6, 6) / 20) * vocals[start : start + length] + band[start : start + length]
    crop = np.pad(crop, (0, length - len(crop)))
    return torch.from_numpy((TARGET_RMS * crop / max(float(np.sqrt(np.mean(crop**2))), 1e-4)).astype(np.float32))


def _measure_mel(audios: list[Mono]) -> dict[str, float]:
    from muq.muq.modules.features import MelSTFT

    melspec = MelSTFT(is_db=True)
    bins = torch.cat([melspec(torch.from_numpy(audio[: 10 * SAMPLE_RATE])).flatten() for audio in audios[:16]])
    return {"melspec_2048_mean": round(bins.mean().item(), 4), "melspec_2048_std": round(bins.std().item(), 4)}


def _first_convolutions(model: Any) -> list[nn.Conv2d]:
    block = model.model.conv.conv[0]
    return [block.conv1, block.conv3]


def _level_penalty(model: Any) -> Tensor:
    return sum((conv.weight.sum((2, 3)).pow(2).mean() for conv in _first_convolutions(model)), torch.zeros(()))


@torch.no_grad()
def _forget_level(model: Any) -> None:
    """Make the features independent of a constant added to the log-mel input, which is what a gain is.

    Kernels that sum to zero do not see a constant; rows that touch the zero padding still would, and are not used.
    """
    for conv in _first_convolutions(model):
        conv.weight -= conv.weight.mean((2, 3), keepdim=True)
    rows = model.model.conv.linear.weight.view(WIDTH, CONV_CHANNELS, -1)
    rows[:, :, :PADDED_ROWS] = 0.0
