"""LoRA (arXiv:2106.09685): train a low-rank correction of each matrix of attention and feed-forward, not the matrix.

Shape legend: B songs, S positions, N blocks of all songs, R rank, I inputs, O outputs.

The adapters are parameters beside the weights they correct, so that these keep their names in checkpoints and a merged
model is an ordinary one. Wrapping modules, as `peft` does, renames every weight underneath.
"""

import difflib
import hashlib
import math
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from model.network.attention import GatedFeedForward, SelfAttention
from model.network.config import ConfigError
from model.network.song_model import SongModel
from model.network.transfer import send

ADAPTER_NAMES = ("lora_down_RI", "lora_up_OR")
STACKS = ("lm", "dit")

_INT32_RANGE = 2**32
_MIX = ((0x7FEB352D, 15), (0x846CA68B - _INT32_RANGE, 16))  # "lowbias32" by Chris Wellons, hash-prospector


class AdapterDropout:
    """Which inputs of one stack's adapters a forward pass drops: a function of the song's seed and the place alone.

    No generator draws them, since its next number would depend on what else is in the batch: each place hashes its own
    key. Keys of places come from `key_rows`, those of inputs from the layer's name.
    """

    def __init__(self, rate: float) -> None:
        """Drop inputs with probability `rate`."""
        self.rate = rate
        self.rows: Tensor | None = None  # int32 [..., S], as the stack sees them; None: nothing is dropped

    def __call__(self, x: Tensor, columns_I: Tensor) -> Tensor:
        """Return [..., S, I] with inputs dropped and the others scaled up; the last S of the rows' positions."""
        if self.rows is None:
            return x
        rows = self.rows[..., self.rows.shape[-1] - x.shape[-2] :]
        mixed = _mix(rows[..., None] + columns_I)
        is_kept = mixed >= round(self.rate * _INT32_RANGE) - _INT32_RANGE // 2
        return x * is_kept / (1 - self.rate)


class LowRankLinear(nn.Linear):
    """y = W x + (alpha / rank) up down x, without bias; `up` starts at zero, so nothing changes before training."""

    def __init__(
        self, layer: nn.Linear, rank: int, alpha: float, dropout: AdapterDropout | None = None, name: str = ""
    ) -> None:
        """Take over the weight of `layer`, frozen; `name` decides, with the song, what `dropout` drops."""
        super().__init__(layer.in_features, layer.out_features, bias=False, device="meta")
        weight = layer.weight.detach()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.scale = alpha / rank
        self.lora_down_RI = nn.Parameter(weight.new_empty(rank, layer.in_features))
        self.lora_up_OR = nn.Parameter(weight.new_zeros(layer.out_features, rank))
        nn.init.kaiming_uniform_(self.lora_down_RI, a=math.sqrt(5))  # as the paper's own code
        self.dropout = dropout
        columns_I = _draw_keys(name, layer.in_features) if dropout is not None else torch.empty(0, dtype=torch.int32)
        self.register_buffer("columns_I", columns_I.to(weight.device), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., I] to [..., O]."""
        read = x if self.dropout is None else self.dropout(x, self.get_buffer("columns_I"))
        correction = linear(linear(read, self.lora_down_RI), self.lora_up_OR) * self.scale
        return correction + linear(x, self.weight)  # in this order recomputation stops before the large product

    @torch.no_grad()
    def merge(self) -> nn.Linear:
        """Return one ordinary layer that does the same."""
        merged = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        merged.weight = nn.Parameter(self.weight + self.scale * self.lora_up_OR @ self.lora_down_RI)
        return merged


def add_adapters(
    model: SongModel, rank: int, alpha: float, *, targets: Sequence[str] = ("*",), dropout: float = 0.0
) -> None:
    """Freeze matrices of attention and feed-forward in both stacks and give each an adapter.

    Args:
        model: is changed.
        rank: of the corrections.
        alpha: they are scaled by alpha / rank.
        targets: patterns of names, such as lm.layers.*.attention.*; a matrix that none matches has no adapter.
        dropout: chance of an adapter's input to be dropped, once `drop_inputs` says for which songs.

    Raises:
        ConfigError: a pattern matches no matrix.
    """
    matrices = find_matrices(model)
    for pattern in targets:
        if not any(fnmatchcase(name, pattern) for name in matrices):
            kinds = dict.fromkeys(re.sub(r"\.\d+\.", ".*.", name) for name in matrices)
            near = difflib.get_close_matches(pattern[:100], kinds, n=2, cutoff=0.0)
            raise ConfigError(
                f"finetune.lora_targets: {pattern!r:.100} matches no matrix; the nearest are {' and '.join(near)}"
            )
    stacks = {stack: AdapterDropout(dropout) if dropout else None for stack in STACKS}
    for name, layer in matrices.items():
        if any(fnmatchcase(name, pattern) for pattern in targets):
            owner, _, own_name = name.rpartition(".")
            adapted = LowRankLinear(layer, rank, alpha, stacks[name.split(".")[0]], name)
            setattr(model.get_submodule(owner), own_name, adapted)


def merge_adapters(model: SongModel) -> None:
    """Add every adapter into its matrix; the model is then one without adapters."""
    for name, layer in find_matrices(model).items():
        if isinstance(layer, LowRankLinear):
            owner, _, own_name = name.rpartition(".")
            setattr(model.get_submodule(owner), own_name, layer.merge())


def find_matrices(model: SongModel) -> dict[str, nn.Linear]:
    """Return the linear layers of all attention and feed-forward modules by name."""
    return {
        f"{owner}.{name}": layer
        for owner, module in model.named_modules()
        if isinstance(module, SelfAttention | GatedFeedForward)
        for name, layer in module.named_children()
        if isinstance(layer, nn.Linear)
    }


class SongDropout:
    """Tells the adapters of a model before each forward pass which songs are in it."""

    def __init__(self, model: SongModel) -> None:
        """Watch both stacks of `model`, if its adapters drop inputs."""
        self._keys: tuple[Tensor, Tensor] | None = None
        self._is_needed = False
        for stack, key_rows in zip(STACKS, (self._key_lm, self._key_dit), strict=True):
            module = model.get_submodule(stack)
            found = [layer.dropout for layer in module.modules() if isinstance(layer, LowRankLinear) and layer.dropout]
            if found:

                def tell(_: nn.Module, inputs: Any, dropout: AdapterDropout = found[0], key: Any = key_rows) -> None:
                    dropout.rows = None if self._keys is None else key(*self._keys, *inputs)

                module.register_forward_pre_hook(tell)
                self._is_needed = True

    def set_songs(self, seeds: Sequence[int], num_blocks: Sequence[int]) -> None:
        """Announce the songs of the next forward pass: their seeds, and how many blocks of each the DiT renders."""
        if not self._is_needed:
            return
        keys = [_draw_keys(str(seed), 2) for seed in seeds]
        blocks = [key[1] + torch.arange(count, dtype=torch.int32) for key, count in zip(keys, num_blocks, strict=True)]
        self._keys = torch.stack(keys)[:, 0], _mix(torch.cat(blocks))

    def drop_nothing(self) -> None:
        """Let the next forward pass be one of validation."""
        self._keys = None

    @staticmethod
    def _key_lm(song_keys_B: Tensor, _: Tensor, x_SD: Tensor, positions_S: Tensor, *__: Any) -> Tensor:
        """Return a key per position: of its song and its place in it."""
        songs_S = (positions_S == 0).cumsum(0) - 1
        return _mix(send(song_keys_B, x_SD.device)[songs_S] + positions_S.int())

    @staticmethod
    def _key_dit(_: Tensor, block_keys_N: Tensor, noisy_NPC: Tensor, *__: Any) -> Tensor:
        """Return a key per position of each block: of its song, its number and the place."""
        places_S = torch.arange(3 * noisy_NPC.shape[1] + 2, device=noisy_NPC.device, dtype=torch.int32)
        return _mix(send(block_keys_N, noisy_NPC.device)[:, None] + places_S)


def _draw_keys(name: str, count: int) -> Tensor:
    """Return int32 keys that are a function of `name`."""
    digest = hashlib.sha256(name.encode()).digest()
    generator = np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16])))
    return torch.tensor(generator.integers(-(2**31), 2**31, count, dtype=np.int32))


def _mix(keys: Tensor) -> Tensor:
    """Return a hash of each int32 key; products wrap around, and shifts fill up with zeros."""
    mixed = keys ^ (keys >> 16).bitwise_and_(0xFFFF)
    for factor, shift in _MIX:
        mixed.mul_(factor).bitwise_xor_((mixed >> shift).bitwise_and_(2 ** (32 - shift) - 1))
    return mixed
