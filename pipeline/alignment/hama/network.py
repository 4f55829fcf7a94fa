"""The network of the package hama's phoneme recogniser in PyTorch, with the weights that the package ships.

The package runs them in an engine of its own, one window at a time on one CPU core; here a window takes a tenth of the
time, windows run together, and a GPU will do. tests/pipeline/alignment/hama/test_recogniser.py compares the two.

A Conformer (arXiv:2005.08100) over log mel energies, without positions.
"""

import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.model_files.errors import ModelFileError
from pipeline.model_files.tensors import check_tensors

HOP_SAMPLES = 160  # of the spectrum at 16 kHz; the stem halves the frames
NUM_HEADS = 4
MIN_MEL_ENERGY = 1e-10
_MAGIC = b"HAMAPK"
_DTYPES = (np.dtype("<f4"), np.dtype("<f2"))
_NUMBERED = ("onnx::MatMul_", "onnx::Conv_")
_PREFIX = "acoustic_model.model."
# The exporter gave no names to matrices and folded convolutions, only numbers in the order in which they are used.
_BLOCK_MATRICES = (
    "ffn1.fc1.weight", "ffn1.fc2.weight", "attn.in_proj_weight", "attn.out_proj.weight",
    "ffn2.fc1.weight", "ffn2.fc2.weight",
)  # fmt: skip
_STEM, _DEPTHWISE = ("stem.weight", "stem.bias"), ("conv.depthwise.weight", "conv.depthwise.bias")


class _FeedForward(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(width), nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.fc2(functional.silu(self.fc1(self.norm(x))))
        return result


class _Convolution(nn.Module):
    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.pointwise1 = nn.Conv1d(width, 2 * width, 1)
        self.depthwise = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.pointwise2 = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        gated = functional.glu(self.pointwise1(self.norm(x).transpose(1, 2)), dim=1)
        result: Tensor = self.pointwise2(functional.silu(self.depthwise(gated)))
        return result.transpose(1, 2)


class _Block(nn.Module):
    def __init__(self, width: int, hidden: int, kernel: int) -> None:
        super().__init__()
        self.ffn1, self.ffn2 = _FeedForward(width, hidden), _FeedForward(width, hidden)
        self.attn_norm, self.attn = nn.LayerNorm(width), nn.MultiheadAttention(width, NUM_HEADS, batch_first=True)
        self.conv, self.norm = _Convolution(width, kernel), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ffn1(x) / 2
        x = x + self._attend(self.attn_norm(x))
        x = x + self.conv(x)
        result: Tensor = self.norm(x + self.ffn2(x) / 2)
        return result

    def _attend(self, x: Tensor) -> Tensor:
        # What nn.MultiheadAttention computes, without its own fast path, which takes a third longer on a CPU.
        qkv = functional.linear(x, self.attn.in_proj_weight, self.attn.in_proj_bias)
        queries, keys, values = qkv.unflatten(-1, (3, NUM_HEADS, -1)).permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(queries, keys, values)
        result: Tensor = self.attn.out_proj(attended.transpose(1, 2).flatten(2))
        return result


class PhoneConformer(nn.Module):
    """Log probabilities of phonemes, a frame per 20 ms."""

    mel_fb: Tensor  # [frequencies, bands]
    stft_real_kernel: Tensor  # [frequencies, 1, samples]
    stft_imag_kernel: Tensor

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        """Take the size of everything from the tensors of a file; `load_phone_conformer` fills them in."""
        super().__init__()
        num_bins, num_mels = tensors["mel_fb"].shape
        size = tensors["stft_real_kernel"].shape[-1]
        width, _, kernel = tensors["blocks.0.conv.depthwise.weight"].shape
        hidden = len(tensors["blocks.0.ffn1.fc1.bias"])
        self.register_buffer("mel_fb", torch.empty(num_bins, num_mels))
        self.register_buffer("stft_real_kernel", torch.empty(num_bins, 1, size))
        self.register_buffer("stft_imag_kernel", torch.empty(num_bins, 1, size))
        self.stem = nn.Conv1d(num_mels, width, tensors["stem.weight"].shape[-1], stride=2, padding=1)
        self.blocks = nn.ModuleList(_Block(width, hidden, kernel) for _ in range(_count_blocks(tensors)))
        self.proj = nn.Conv1d(width, len(tensors["proj.bias"]), 1)

    def forward(self, samples: Tensor) -> Tensor:
        """Return float32 [B, L // 320 + 1, V] for 16 kHz mono [B, L]."""
        margin = self.stft_real_kernel.shape[-1] // 2
        padded = functional.pad(samples[:, None], (margin, margin), mode="reflect")
        real, imaginary = (
            functional.conv1d(padded, kernel, stride=HOP_SAMPLES)
            for kernel in (self.stft_real_kernel, self.stft_imag_kernel)
        )
        mel = (real.square() + imaginary.square()).transpose(1, 2) @ self.mel_fb
        x = functional.gelu(self.stem(mel.clamp(min=MIN_MEL_ENERGY).log().transpose(1, 2))).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.proj(x.transpose(1, 2)).transpose(1, 2)
        return logits.log_softmax(dim=-1)


def load_phone_conformer(path: Path) -> PhoneConformer:
    """Read a packed file of weights.

    Raises:
        ModelFileError: the file is cut, holds something else, or is of another release.
    """
    try:
        packed = read_pack(path)
        if other := [name for name in packed if name.startswith("onnx::") and not name.startswith(_NUMBERED)]:
            raise ModelFileError(f"{path}: {other[0]} is unexpected; expected the recogniser of hama 1.7.0")
        tensors = _name_tensors(packed)
        model = PhoneConformer(tensors)
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise ModelFileError(f"{path}: {error}; expected the recogniser of hama 1.7.0") from error
    check_tensors(tensors, model.state_dict(), path)
    model.load_state_dict(tensors)
    return model.eval()


def read_pack(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a packed file as float32.

    Six letters, two bytes of version, the number of entries; per entry its name, type, shape, and place among the data
    that ends the file. All numbers are little-endian and unsigned.
    """
    data = path.read_bytes()
    if data[:6] != _MAGIC:
        raise ModelFileError(f"{path}: begins with {data[:6]!r}, expected {_MAGIC!r}")
    entries: dict[str, tuple[np.dtype[np.floating], tuple[int, ...], int, int]] = {}
    try:
        (count,), position = struct.unpack_from("<I", data, 8), 12
        for _ in range(count):
            (length,) = struct.unpack_from("<H", data, position)
            name = data[position + 2 : position + 2 + length].decode()
            position += 2 + length
            kind, rank = struct.unpack_from("<BB", data, position)
            shape = struct.unpack_from(f"<{rank}I", data, position + 2)
            begin, num_bytes = struct.unpack_from("<QQ", data, position + 2 + 4 * rank)
            entries[name] = _DTYPES[kind], shape, begin, num_bytes
            position += 18 + 4 * rank
    except (struct.error, UnicodeDecodeError, IndexError) as error:
        raise ModelFileError(f"{path}: its table of tensors cannot be read: {error}") from error
    start = len(data) - max((begin + num_bytes for _, _, begin, num_bytes in entries.values()), default=0)
    tensors = {}
    for name, (dtype, shape, begin, num_bytes) in entries.items():
        expected = int(np.prod(shape, dtype=object)) * dtype.itemsize
        if start < position or num_bytes != expected:
            raise ModelFileError(f"{path}: {name} has {num_bytes} bytes of {len(data)}, expected {expected}")
        array = np.frombuffer(data, dtype, count=num_bytes // dtype.itemsize, offset=start + begin)
        tensors[name] = torch.from_numpy(array.astype(np.float32).reshape(shape))
    return tensors


def _name_tensors(packed: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under the names of PhoneConformer."""
    named = {name.removeprefix(_PREFIX): tensor for name, tensor in packed.items() if not name.startswith("onnx::")}
    blocks = range(_count_blocks(named))
    matrices = [f"blocks.{block}.{name}" for block in blocks for name in _BLOCK_MATRICES]
    convolutions = [*_STEM, *(f"blocks.{block}.{name}" for block in blocks for name in _DEPTHWISE)]
    numbered = {name: tensor.T.contiguous() for name, tensor in zip(matrices, _numbered(packed, "MatMul"), strict=True)}
    return named | numbered | dict(zip(convolutions, _numbered(packed, "Conv"), strict=True))


def _numbered(packed: dict[str, Tensor], kind: str) -> list[Tensor]:
    prefix = f"onnx::{kind}_"
    return [packed[f"{prefix}{k}"] for k in sorted(int(n.removeprefix(prefix)) for n in packed if n.startswith(prefix))]


def _count_blocks(named: dict[str, Tensor]) -> int:
    return len({name.split(".")[1] for name in named if name.startswith("blocks.")})
