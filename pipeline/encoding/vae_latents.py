"""Audio to VAE latents and back, in chunks that give what the whole song would give.

Shape legend: B clips, L samples, T frames of 1920 samples (25 Hz), C latent channels, K prompts, P frames of a prompt.
"""

from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.audio.decode import Audio, to_mono
from pipeline.encoding.vae_checkpoint import context_frames, load_oobleck
from pipeline.gpu import ieee_float32, run_in_parts
from pipeline.model_files.errors import ModelFileError
from shards.schema import FRAME_RATE_HZ, PROMPT_FRAMES, count_frames

Latents = NDArray[np.float32]  # [T, C]

_MIN_STD = 1e-4  # what both libraries add to softplus(scale)


class AudioLengthError(ValueError):
    """Audio without a single frame."""


class VaeCodec:
    """The stable-audio VAE of `vae_checkpoint.load_oobleck`, in IEEE float32 whatever a GPU may round.

    Songs are encoded and decoded in chunks with as many frames of context as the network reaches, so the result does
    not depend on `chunk_frames` (up to rounding) and the network's memory does not grow with the song. Where a GPU has
    no memory for a batch of chunks, fewer of them run together.
    """

    def __init__(self, path: Path, *, device: str = "cpu", chunk_frames: int = 250, batch_size: int = 1) -> None:
        """Load the weights.

        Args:
            path: what `resolve_model` returns for the stage "vae".
            device: where the network runs; arrays come and go on the CPU.
            chunk_frames: frames taken at once; 250 (10 s) take about 1 GB beside the full-size weights.
            batch_size: chunks of one song that are run together: worth it on a GPU only.
        """
        if chunk_frames < 1 or batch_size < 1:
            raise ValueError(f"chunk_frames {chunk_frames} and batch_size {batch_size}, expected 1 or more")
        self._model, config = load_oobleck(path)
        self._model.to(device)
        if config.sample_rate != FRAME_RATE_HZ * config.hop_length or config.audio_channels != 2:
            raise ModelFileError(
                f"{path}: a VAE of {config.audio_channels} channels with {config.hop_length} samples a frame at "
                f"{config.sample_rate} Hz, expected stereo and {FRAME_RATE_HZ} frames a second"
            )
        self.sample_rate, self.hop_length = config.sample_rate, config.hop_length
        self.latent_channels = config.latent_channels
        self.encoder_context, self.decoder_context = context_frames(config.strides)
        self._device, self._chunk_frames, self._batch_size = device, chunk_frames, batch_size

    def encode(self, audio: Audio) -> tuple[Latents, Latents]:
        """Return mean and standard deviation, float32 [T, C], of the posterior of float32 [2, L] at `sample_rate`.

        T = count_frames(L, sample_rate); samples beyond the last whole frame are left out.

        Raises:
            AudioLengthError: less than one frame.
        """
        num_frames = self._check_audio(audio)
        samples = audio[:, : num_frames * self.hop_length]
        parameters = self._run(self._encode_parameters, samples, self.hop_length, 1, self.encoder_context)
        mean, std = parameters.T.reshape(num_frames, 2, self.latent_channels).transpose(1, 0, 2)
        return np.ascontiguousarray(mean), np.ascontiguousarray(std)

    def encode_prompts(self, audio: Audio, start_frames: Sequence[int]) -> NDArray[np.float32]:
        """Return the posterior means float32 [K, P, C] of the mono 10 s prompts that start at some frames of [2, L].

        A prompt is encoded as the reference does: by itself, mixed down and repeated to two channels. Where the song
        ends before the prompt does, the missing latents are zero.
        """
        num_frames = self._check_audio(audio)
        prompts = np.zeros((len(start_frames), PROMPT_FRAMES, self.latent_channels), np.float32)
        for prompt, start in zip(prompts, start_frames, strict=True):
            if not 0 <= start < num_frames:
                raise ValueError(f"prompt at frame {start} of a song of {num_frames}")
            mean = self.encode(cut_prompt(audio, start, self.hop_length))[0]
            prompt[: len(mean)] = mean
        return prompts

    def decode(self, latents: Latents) -> Audio:
        """Return audio float32 [2, T * hop_length] of latents [T, C]; not clipped to full scale."""
        if latents.ndim != 2 or latents.shape[1] != self.latent_channels or len(latents) == 0:
            raise ValueError(f"latents {latents.shape}, expected [T > 0, {self.latent_channels}]")
        if not np.isfinite(latents).all():
            raise ValueError("latents hold values that are not finite")
        frames = latents.T.astype(np.float32)
        return self._run(self._model.decoder, frames, 1, self.hop_length, self.decoder_context)

    def _check_audio(self, audio: Audio) -> int:
        if audio.ndim != 2 or len(audio) != 2 or audio.dtype != np.float32:
            raise ValueError(f"audio is {audio.dtype} {audio.shape}, expected float32 [2, L]")
        if not np.isfinite(audio).all():
            raise ValueError("audio holds samples that are not finite")
        num_frames = count_frames(audio.shape[1], self.sample_rate)
        if num_frames == 0:
            raise AudioLengthError(f"{audio.shape[1]} samples, expected at least one frame of {self.hop_length}")
        return num_frames

    def _encode_parameters(self, samples: Tensor) -> Tensor:
        """Return means and then standard deviations [B, 2 * C, T] of samples [B, 2, L]."""
        mean, scale = self._model.encoder(samples).chunk(2, dim=1)
        return torch.cat([mean, torch.nn.functional.softplus(scale) + _MIN_STD], dim=1)

    @torch.inference_mode()
    def _run(
        self, network: Callable[[Tensor], Tensor], inputs: Audio, in_hop: int, out_hop: int, context: int
    ) -> Audio:
        """Apply a network to [channels, frames * in_hop] chunk by chunk and join the [channels, frames * out_hop]."""
        num_frames = inputs.shape[1] // in_hop
        chunks = [
            _Chunk(start, min(start + self._chunk_frames, num_frames), context, num_frames)
            for start in range(0, num_frames, self._chunk_frames)
        ]
        alike = [list(group) for _, group in groupby(chunks, key=lambda chunk: chunk.last - chunk.first)]
        batches = (part[at : at + self._batch_size] for part in alike for at in range(0, len(part), self._batch_size))

        def run(part: Sequence[_Chunk]) -> Audio:
            stacked = np.stack([inputs[:, chunk.first * in_hop : chunk.last * in_hop] for chunk in part])
            with ieee_float32():
                rows: Audio = network(torch.from_numpy(stacked).to(self._device)).cpu().numpy()
            return rows

        outputs: list[Audio] = []
        for chunk, row in zip(chunks, run_in_parts(run, batches), strict=True):
            offset = chunk.start - chunk.first
            outputs.append(row[:, offset * out_hop : (offset + chunk.stop - chunk.start) * out_hop])
        return np.concatenate(outputs, axis=1)


class _Chunk:
    """Frames `start` to `stop` of a song, and `first` to `last` with their context."""

    def __init__(self, start: int, stop: int, context: int, num_frames: int) -> None:
        self.start, self.stop = start, stop
        self.first, self.last = max(start - context, 0), min(stop + context, num_frames)


def cut_prompt(audio: Audio, start_frame: int, hop_length: int) -> Audio:
    """Return float32 [2, up to 10 s] from frame `start_frame` of [C, L], mixed down to mono and repeated."""
    start = start_frame * hop_length
    mono = to_mono(audio[:, start : start + PROMPT_FRAMES * hop_length])
    return np.repeat(mono[None], 2, axis=0)
