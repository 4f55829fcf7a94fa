"""Keys and values of songs that are written in step, in tensors that stay where they are.

Shape legend: L layers, R rows that decode in step, H heads, M positions there is room for, E channels per head.

A recorded step looks at as many positions each time. So it looks at whole buckets, up to the one that holds the end of
the longest row, and a mask hides what is past a row's end; every bucket is another recording. flash-attn's call for
caches reads where each row ends on the GPU instead, and looks at nothing beyond: it is taken where it is installed.
"""

from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from model.network.config import ModelConfig
from model.network.varlen import suits_kernel

BUCKET = 1024  # positions: 5 recordings for a song of 150 s, which looks at 1.18 times what it needs (whole room: 1.70)

CacheKernel = Callable[..., Tensor]
"""As flash_attn.flash_attn_with_kvcache: queries, all keys, all values, new key, new value, where each row ends."""


@cache
def find_cache_kernel() -> CacheKernel | None:
    """Return flash-attn's attention to a cache, or None where it cannot be had."""
    try:
        return getattr(import_module("flash_attn"), "flash_attn_with_kvcache", None)
    except (ImportError, OSError, RuntimeError, AttributeError):  # `varlen.describe_attention` says what is wrong
        return None


class StepCache:
    """Keys and values of every LM layer; position p of a row lies at index p.

    Rows may have different lengths: entries past a row's own end are never looked at, and are overwritten as the row
    grows. So batching rows changes nothing for any of them.
    """

    keys_LRHME: Tensor
    values_LRHME: Tensor
    lengths_R: Tensor
    """int64, on the device; grows within a step."""
    lengths: list[int]
    """The same as known without asking the device; grows after a step."""

    def __init__(
        self, config: ModelConfig, lengths: Sequence[int], num_steps: int, like: Tensor, *, bucket: int = 1
    ) -> None:
        """Reserve room for rows of `lengths` to grow by `num_steps`.

        Args:
            config: gives sizes.
            lengths: of the rows as they will be stored.
            num_steps: how many vectors each row can take beyond that.
            like: has the device and precision of keys and values.
            bucket: positions; steps look at a multiple of it.
        """
        self.kernel = find_cache_kernel() if suits_kernel(like) else None
        self.lengths = list(lengths)
        self.lengths_R = torch.tensor(self.lengths, device=like.device)
        room = -(-(max(lengths) + num_steps) // bucket) * bucket
        self._bucket = room if self.kernel is not None else bucket
        shape = (config.lm_layers, len(lengths), config.num_heads, room, config.head_dim)
        if self.kernel is not None:  # wants a row's positions one after another, each with all its heads
            shape = (*shape[:2], room, config.num_heads, config.head_dim)
        keys, values = like.new_zeros(shape), like.new_zeros(shape)
        self.keys_LRHME, self.values_LRHME = (
            (keys, values) if self.kernel is None else (keys.transpose(2, 3), values.transpose(2, 3))
        )

    @property
    def extent(self) -> int:
        """Return how many positions the next step looks at."""
        return -(-(max(self.lengths) + 1) // self._bucket) * self._bucket

    def grow(self) -> None:
        """Count the vector that a step has stored in every row."""
        self.lengths = [length + 1 for length in self.lengths]

    def keep(self, rows: Sequence[int]) -> None:
        """Forget all rows but `rows`, which ascend; nothing is allocated for keys and values."""
        for stored in (self.keys_LRHME, self.values_LRHME):
            for row, old in enumerate(rows):
                if row != old:
                    stored[:, row, :, : self.lengths[old]] = stored[:, old, :, : self.lengths[old]]
        self.keys_LRHME, self.values_LRHME = self.keys_LRHME[:, : len(rows)], self.values_LRHME[:, : len(rows)]
        self.lengths_R = self.lengths_R[list(rows)]
        self.lengths = [self.lengths[row] for row in rows]


class CachedStep:
    """Attention of one new vector per row to all that its row holds in the cache, itself included."""

    def __init__(self, cache: StepCache) -> None:
        """Put the new vectors at the end of each row; the caller lets `lengths_R` grow after the last layer."""
        self._cache, self._extent = cache, cache.extent
        device = cache.lengths_R.device
        if cache.kernel is not None:
            self._ends_R = cache.lengths_R.int()
            return
        self._rows_R = torch.arange(len(cache.lengths_R), device=device)
        is_hidden_RM = torch.arange(self._extent, device=device) > cache.lengths_R[:, None]
        mask_RM = torch.zeros(is_hidden_RM.shape, dtype=cache.keys_LRHME.dtype, device=device)
        self._mask_R11M = mask_RM.masked_fill(is_hidden_RM, -torch.inf)[:, None, None]

    def __call__(self, layer: int, query_RHE: Tensor, key_RHE: Tensor, value_RHE: Tensor) -> Tensor:
        """Store the new keys and values, then attend."""
        keys, values = self._cache.keys_LRHME[layer], self._cache.values_LRHME[layer]
        if self._cache.kernel is not None:
            new = (x[:, None] for x in (key_RHE, value_RHE))
            stored = (x.transpose(1, 2) for x in (keys, values))
            return self._cache.kernel(query_RHE[:, None], *stored, *new, cache_seqlens=self._ends_R, causal=True)[:, 0]
        keys[self._rows_R, :, self._cache.lengths_R] = key_RHE
        values[self._rows_R, :, self._cache.lengths_R] = value_RHE
        mixed_RH1E = scaled_dot_product_attention(
            query_RHE[:, :, None],
            keys[:, :, : self._extent],
            values[:, :, : self._extent],
            attn_mask=self._mask_R11M,
        )
        return mixed_RH1E[:, :, 0]
