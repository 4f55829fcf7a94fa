"""Where the VAE's training starts: a linear transform that already keeps the music's strongest components.

From random weights a CPU's share of steps was not enough: after some 600 steps, decoded songs had a chroma correlation
of 0.03 with the originals. The same network can be an orthonormal lapped transform: samples are regrouped, a short MDCT
gives 128 coefficients every 4 ms, a second MDCT along time gives 1280 every 40 ms, and the 64 leading principal
components of those are the latents, at unit variance. The decoder is the transpose. Training goes on from there.

Shape legend: O outputs, I inputs, K taps, N hop of a lapped transform.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.miniatures.training.corpus import Stems

FLAT_LOG_ALPHA = -3.0  # Snake adds sin(0.05 x)^2: a straight line for all that matters
MID_COEFFICIENTS, SIDE_COEFFICIENTS = 96, 32  # kept of the short MDCT's 192 each: 12 kHz of the mid, 4 kHz of the side
MIN_DEVIATION = 0.05  # of the weakest component relative to the strongest: rarer ones are not blown up to unit variance


@torch.no_grad()
def start_linear(model: Any, songs: list[Stems], num_latents: int) -> None:
    """Set all weights of a model of `vae.CONFIG`'s shape, with the components measured on the songs."""
    for name, module in model.named_modules():
        if hasattr(module, "alpha"):
            module.alpha.fill_(FLAT_LOG_ALPHA)
            module.beta.zero_()
        elif hasattr(module, "weight_g"):
            if "res_unit" in name and name.endswith("conv2"):
                module.weight_g.zero_()  # residual branches start silent
            if module.bias is not None and module is not model.encoder.conv2:
                module.bias.zero_()
    encoder, decoder = model.encoder, model.decoder
    rotation = torch.tensor([[1.0, 1.0], [1.0, -1.0]]) / 2**0.5  # left and right to mid and side
    _set_pair(encoder.conv1, decoder.conv2, torch.nn.functional.pad(rotation[:, :, None], (3, 3)))
    downs = [block.conv1 for block in encoder.block]
    ups = [block.conv_t1 for block in decoder.block][::-1]
    channels = 2
    for down, up in zip(downs[:3], ups[:3], strict=True):
        stride = down.stride[0]
        _set_pair(down, up, _regroup(channels, stride))
        channels *= stride
    _set_pair(downs[3], ups[3], _short_mdct(downs[3].stride[0], channels))
    axes, deviations = _principal_components(model, songs, num_latents)
    scale = torch.clamp(deviations, min=MIN_DEVIATION * float(deviations[0]))[:, None, None]
    _set_weight(downs[4], axes / scale)
    _set_weight(ups[4], axes * scale)
    keep = torch.eye(num_latents)[:, :, None]
    _set_weight(encoder.conv2, torch.nn.functional.pad(keep, (1, 1)))
    _set_weight(decoder.conv1, torch.nn.functional.pad(keep, (3, 3)))


def _set_weight(conv: Any, weight: Tensor) -> None:
    """Give a weight-normed convolution these first rows and columns; rows left over stay random but silent."""
    full = torch.zeros_like(conv.weight_v)
    full[: weight.shape[0], : weight.shape[1]] = weight
    lengths = full.norm(dim=(1, 2), keepdim=True)
    conv.weight_v.copy_(torch.where(lengths > 0, full, conv.weight_v))
    conv.weight_g.copy_(lengths)


def _set_pair(down: Any, up: Any, weight_OIK: Tensor) -> None:  # noqa: N803
    """Give the encoder's convolution these weights, and its partner in the decoder the transpose."""
    _set_weight(down, weight_OIK)
    # A transposed convolution spells its weights [inputs, outputs, taps]: the same array; a plain one does not.
    _set_weight(up, weight_OIK if isinstance(up, torch.nn.ConvTranspose1d) else weight_OIK.transpose(0, 1))


def _regroup(channels: int, stride: int) -> Tensor:
    """Return the convolution that turns `stride` steps of some channels into one step of all their samples."""
    weight = torch.zeros(channels * stride, channels, 2 * stride)
    for step in range(stride):
        for channel in range(channels):
            weight[step * channels + channel, channel, stride // 2 + step] = 1.0
    return weight


def _mdct(hop: int) -> NDArray[np.float64]:
    """Return the orthonormal MDCT with a sine window as [N, 2N]."""
    n, k = np.arange(2 * hop), np.arange(hop)[:, None]
    window = np.sin(np.pi / (2 * hop) * (n + 0.5))
    return np.asarray(np.sqrt(2 / hop) * window * np.cos(np.pi / hop * (n + 0.5 + hop / 2) * (k + 0.5)))


def _short_mdct(stride: int, channels: int) -> Tensor:
    """Return the convolution over regrouped samples that gives the low MDCT coefficients of mid and side."""
    group = channels // 2  # samples of one side in one step
    basis = torch.from_numpy(_mdct(stride * group)).float()
    # Regrouping in several stages keeps the order of time: the sample is the high part of the channel number.
    steps = basis.reshape(len(basis), 2 * stride, group).permute(0, 2, 1)  # [N, group, K]
    weight = torch.zeros(MID_COEFFICIENTS + SIDE_COEFFICIENTS, channels, 2 * stride)
    weight[:MID_COEFFICIENTS, 0::2] = steps[:MID_COEFFICIENTS]
    weight[MID_COEFFICIENTS:, 1::2] = steps[:SIDE_COEFFICIENTS]
    return weight


def _principal_components(model: Any, songs: list[Stems], count: int) -> tuple[Tensor, Tensor]:
    """Return the leading components of the long MDCT as weights [count, I, K], and their deviations [count]."""
    stride = model.encoder.block[4].conv1.stride[0]
    width = MID_COEFFICIENTS + SIDE_COEFFICIENTS
    basis = torch.from_numpy(_mdct(stride)).float()
    lapped = torch.einsum("nk,ij->nijk", basis, torch.eye(width)).reshape(stride * width, width, 2 * stride)
    covariance, frames = torch.zeros(stride * width, stride * width), 0
    for song in songs:
        hidden = torch.from_numpy(song.mix[:, : song.mix.shape[1] // 1920 * 1920])[None]
        hidden = model.encoder.conv1(hidden)
        for block in model.encoder.block[:4]:
            hidden = block(hidden)
        rows = torch.nn.functional.conv1d(hidden[:, :width], lapped, stride=stride, padding=stride // 2)[0]
        covariance += rows @ rows.T
        frames += rows.shape[1]
    variances, vectors = torch.linalg.eigh(covariance / frames)
    leading = torch.arange(len(variances) - 1, len(variances) - 1 - count, -1)
    axes = torch.einsum("nc,nik->cik", vectors[:, leading], lapped)
    return axes, variances[leading].clamp(min=1e-12).sqrt()
