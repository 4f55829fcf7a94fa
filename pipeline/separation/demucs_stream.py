"""Demucs over a song of any length: its own segments, overlap and weights, with a few segments in memory at a time.

`demucs.apply.apply_model` holds every stem of the whole song: 5 GB for an hour in four stems. Here it runs on one batch
of segments after the other, and what two segments share is added up as it does, so the result is the same.

Shape legend: B segments of a batch, C channels, L samples of a segment, S sources.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from pipeline.audio.decode import Audio, iterate_blocks, resample_blocks, to_stereo
from pipeline.gpu import ieee_float32, run_in_parts, tf32

Precision = Literal["float32", "tf32", "bfloat16", "float16"]


class StreamSeparator:
    """One stem of a Demucs model, or of a bag of them."""

    def __init__(
        self,
        model: Any,  # demucs has no common type for a model and a bag of models
        source: str,
        *,
        overlap: float = 0.25,
        batch_size: int = 1,
        precision: Precision = "float32",
        device: str = "cpu",
    ) -> None:
        """Take a model that `load_separator` returned.

        Args:
            model: moved to `device`.
            source: name of the stem.
            overlap: of a segment, 0 to below 1; Demucs' own default is 0.25.
            batch_size: segments of a song that run together: worth it on a GPU only, and fewer where its memory ends.
            precision: of the network; spectrograms and sums stay in float32. "float32" is that of IEEE on every device;
                "tf32" lets a GPU round the factors of convolutions and matrix products, and is "float32" on a CPU.
            device: where the network runs.
        """
        if not 0 <= overlap < 1 or batch_size < 1:
            raise ValueError(f"overlap {overlap}, batch size {batch_size}: expected 0 to below 1, and at least 1")
        self._model, self._source = model.to(device).eval(), model.sources.index(source)
        self._batch_size, self._precision, self._device = batch_size, precision, device
        self.sample_rate = int(model.samplerate)
        members = getattr(model, "models", [model])
        self.segment_samples = min(int(member.samplerate * member.segment) for member in members)
        self.stride_samples = int((1 - overlap) * self.segment_samples)
        rising = torch.arange(1, self.segment_samples // 2 + 1)
        falling = torch.arange(self.segment_samples - self.segment_samples // 2, 0, -1)
        weight = torch.cat([rising, falling])
        self._weight = (weight / weight.max()).numpy()  # a triangle, as apply_model has it

    def separate(self, mix: Audio, sample_rate: int) -> Iterator[Audio]:
        """Yield the stem of float32 [C, L] as blocks [2, n] at the same rate; joined they have about L samples."""
        mean, std = self._measure(self._read(mix, sample_rate))
        stems = self._separate((block - mean) / std for block in self._read(mix, sample_rate))
        return resample_blocks((stem * std + mean for stem in stems), self.sample_rate, sample_rate)

    def _read(self, mix: Audio, sample_rate: int) -> Iterator[Audio]:
        return resample_blocks(map(to_stereo, iterate_blocks(mix)), sample_rate, self.sample_rate)

    def _measure(self, blocks: Iterable[Audio]) -> tuple[np.float32, np.float32]:
        """Return mean and deviation of the mono reference: Demucs was trained on mixes normalised by them."""
        count, mean, squares = 0, 0.0, 0.0
        for block in blocks:
            reference = block.mean(axis=0)
            if not (num_new := len(reference)):
                continue
            new_mean = float(reference.mean(dtype=np.float64))
            deviations = reference - np.float32(new_mean)
            # Chan's pairwise update: one pass, no difference of large sums.
            share, delta = num_new / (count + num_new), new_mean - mean
            squares += float(np.dot(deviations, deviations)) + delta**2 * count * share
            mean, count = mean + delta * share, count + num_new
        return np.float32(mean), np.float32((squares / max(count - 1, 1)) ** 0.5 + 1e-8)

    def _separate(self, blocks: Iterable[Audio]) -> Iterator[Audio]:
        """Yield the stem, a stride at a time, of a normalised mix at the model's rate."""
        tail: Audio = np.zeros((2, self.segment_samples), np.float32)  # sums from the present segment's start on
        weights: Audio = np.zeros(self.segment_samples, np.float32)
        for stem in run_in_parts(self._run, self._batches(self._segments(blocks))):
            length = stem.shape[1]
            tail[:, :length] += self._weight[:length] * stem
            weights[:length] += self._weight[:length]
            done = min(self.stride_samples, length)
            yield tail[:, :done] / weights[:done]
            tail = np.pad(tail[:, self.stride_samples :], ((0, 0), (0, self.stride_samples)))
            weights = np.pad(weights[self.stride_samples :], (0, self.stride_samples))

    def _segments(self, blocks: Iterable[Audio]) -> Iterator[tuple[Audio, int]]:
        """Yield each segment within a segment's length of its neighbourhood on both sides, [2, 3 L], and its length.

        Beyond the song's ends there are zeros, as in apply_model.
        """
        size, stride = self.segment_samples, self.stride_samples
        pending: Audio = np.zeros((2, size), np.float32)  # from one segment's length before the next segment on
        for block in blocks:
            pending = np.concatenate([pending, block], axis=1)
            while pending.shape[1] >= 3 * size:
                yield pending[:, : 3 * size], size
                pending = pending[:, stride:]
        while (left := pending.shape[1] - size) > 0:
            yield np.pad(pending[:, : 3 * size], ((0, 0), (0, max(0, 3 * size - pending.shape[1])))), min(left, size)
            pending = pending[:, stride:]

    def _batches(self, segments: Iterable[tuple[Audio, int]]) -> Iterator[list[tuple[Audio, int]]]:
        """Group segments of equal length."""
        batch: list[tuple[Audio, int]] = []
        for segment in segments:
            if batch and (len(batch) == self._batch_size or segment[1] != batch[0][1]):
                yield batch
                batch = []
            batch.append(segment)
        if batch:
            yield batch

    def _run(self, batch: list[tuple[Audio, int]]) -> Audio:
        """Return the stems [B, 2, n] of a batch, through apply_model, which pads each with what lies around it."""
        from demucs.apply import TensorChunk, apply_model

        mixes = batch[0][0][None] if len(batch) == 1 else np.stack([mix for mix, _ in batch])
        chunk = TensorChunk(torch.from_numpy(mixes).to(self._device), self.segment_samples, batch[0][1])
        with torch.inference_mode(), in_precision(self._precision, self._device):
            stems: Tensor = apply_model(self._model, chunk, shifts=0, split=False, device=self._device)
        result: Audio = stems[:, self._source].float().cpu().numpy()
        return result


@contextmanager
def in_precision(precision: Precision, device: str) -> Iterator[None]:
    """Run a block in a precision, see `StreamSeparator`."""
    is_cpu = torch.device(device).type == "cpu"
    with ExitStack() as stack:
        stack.enter_context(tf32() if precision == "tf32" and not is_cpu else ieee_float32())
        if precision in ("bfloat16", "float16"):
            stack.enter_context(torch.autocast(torch.device(device).type, dtype=getattr(torch, precision)))
        yield
