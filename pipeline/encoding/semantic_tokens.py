"""Audio to semantic tokens: MuQ features (arXiv:2501.01108) of one layer, then the nearest code of the codebook.

Shape legend: L samples at 24 kHz, T frames of 960 samples (25 Hz), D feature channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.encoding.codebook import Codebook, Features
from pipeline.encoding.muq_weights import load_muq
from pipeline.gpu import ieee_float32, run_in_parts
from pipeline.model_files.errors import ModelFileError
from pipeline.model_files.fingerprint import fingerprint_model
from shards.schema import FRAME_RATE_HZ, SEMANTIC_HOP_LENGTH

MonoAudio = NDArray[np.float32]  # [L] at 24 kHz, full scale = 1.0

# The mel front end mirrors 1024 samples at each end and needs more than that: two frames.
_MIN_WINDOW_FRAMES = 2


@dataclass(frozen=True, slots=True)
class _Window:
    """Frames `start` to `stop` of a song go through MuQ together; `keep_start` to `keep_stop` of them are kept."""

    start: int
    stop: int
    keep_start: int
    keep_stop: int


def plan_windows(num_frames: int, window_frames: int, margin_frames: int) -> list[_Window]:
    """Cut a song into windows of equal length whose kept parts cover it once.

    Every window but a short song's only one has `window_frames` frames of the song itself, no padding: the last one is
    moved back to end with the song. At least `margin_frames` are discarded wherever two windows meet.
    """
    if num_frames <= window_frames:
        return [_Window(0, num_frames, 0, num_frames)]
    windows: list[_Window] = []
    kept = 0
    while kept < num_frames:
        start = min(max(kept - margin_frames, 0), num_frames - window_frames)
        stop = start + window_frames
        keep_stop = num_frames if stop == num_frames else stop - margin_frames
        windows.append(_Window(start, stop, kept, keep_stop))
        kept = keep_stop
    return windows


class SemanticTokenizer:
    """MuQ and a codebook, in IEEE float32 on every device, whatever the process allows its GPU to round.

    The same audio gives the same tokens every time on the same machine. Where a GPU has no memory for a batch of
    windows, fewer of them run together.
    """

    def __init__(
        self,
        muq_path: Path,
        codebook_path: Path | None,
        *,
        layer: int,
        window_s: float = 30.0,
        margin_s: float = 1.0,
        batch_size: int = 1,
        device: str = "cpu",
    ) -> None:
        """Keep the settings; weights load in `setup`.

        Args:
            muq_path: what `resolve_model` returns for the stage "muq".
            codebook_path: the same for "codebook"; None gives `features` only.
            layer: entry of MuQ's hidden states; 0 is the input of the first layer.
            window_s: MuQ was trained on 30 s.
            margin_s: discarded at each inner edge of a window, as much as SongEditor (AAAI 2025) discards.
            batch_size: windows of one song that run together: worth it on a GPU only.
            device: where the networks run; arrays come and go on the CPU.
        """
        self._window_frames = round(window_s * FRAME_RATE_HZ)
        self._margin_frames = round(margin_s * FRAME_RATE_HZ)
        if self._margin_frames < 0 or self._window_frames <= 2 * self._margin_frames + 1 or batch_size < 1:
            raise ValueError(
                f"window {window_s} s, margin {margin_s} s, batch size {batch_size}: "
                "expected a window of more than two margins and a batch of at least 1"
            )
        self._muq_path, self._codebook_path, self._layer = muq_path, codebook_path, layer
        self._batch_size, self._device = batch_size, device

    def setup(self) -> None:
        """Load MuQ and the codebook."""
        self._muq = load_muq(self._muq_path, self._layer).to(self._device)
        self.feature_dim = int(self._muq.config.encoder_dim)
        self._codebook = None if self._codebook_path is None else self._load_codebook(self._codebook_path)

    def _load_codebook(self, path: Path) -> Codebook:
        codebook = Codebook.load(path, device=self._device)
        if codebook.feature_dim != self.feature_dim:
            found, expected = codebook.feature_dim, self.feature_dim
            raise ModelFileError(f"{path}: a codebook for {found} features, {self._muq_path} has {expected}")
        layer = codebook.metadata.get("muq_layer", self._layer)
        if layer != self._layer:
            raise ModelFileError(f"{path}: fitted on MuQ layer {layer}, but the profile takes {self._layer}")
        muq = codebook.metadata.get("muq_sha256")
        if muq is not None and muq != fingerprint_model(self._muq_path, "muq"):
            raise ModelFileError(f"{path}: fitted on another MuQ than {self._muq_path}; fit it again")
        return codebook

    def tokens(self, audio: MonoAudio, num_frames: int) -> NDArray[np.uint16]:
        """Return the ids uint16 [T] of mono audio; arguments as for `features`."""
        if self._codebook is None:
            raise ValueError("tokens need a codebook: set codebook_path and call setup")
        return self._codebook.encode(self.features(audio, num_frames))

    def features(self, audio: MonoAudio, num_frames: int) -> Features:
        """Return MuQ's hidden state of the configured layer, float32 [T, D].

        Args:
            audio: float32 [L], 24 kHz mono; cut or filled with zeros to `num_frames` whole frames.
            num_frames: T, from `shards.schema.count_frames` of the song at its own rate.

        Raises:
            ValueError: no whole frame, or audio that is not of this length at this rate.
        """
        samples = fit_length(audio, num_frames)
        windows = plan_windows(num_frames, self._window_frames, self._margin_frames)
        output = np.empty((num_frames, self.feature_dim), np.float32)
        batches = [windows[at : at + self._batch_size] for at in range(0, len(windows), self._batch_size)]

        def run(part: Sequence[_Window]) -> Features:
            rows = [samples[item.start * SEMANTIC_HOP_LENGTH : item.stop * SEMANTIC_HOP_LENGTH] for item in part]
            return self._hidden(np.stack(rows))

        for item, hidden in zip(windows, run_in_parts(run, batches), strict=True):
            kept = hidden[item.keep_start - item.start : item.keep_stop - item.start]
            output[item.keep_start : item.keep_stop] = kept
        return output

    @torch.inference_mode()
    def _hidden(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        num_frames = samples.shape[1] // SEMANTIC_HOP_LENGTH
        missing = max(_MIN_WINDOW_FRAMES - num_frames, 0) * SEMANTIC_HOP_LENGTH
        padded = torch.from_numpy(np.pad(samples, ((0, 0), (0, missing)))).to(self._device)
        with ieee_float32():
            hidden = self._muq(padded, output_hidden_states=True).hidden_states[self._layer]
        result: NDArray[np.float32] = hidden[:, :num_frames].float().cpu().numpy()
        return result


def fit_length(audio: MonoAudio, num_frames: int) -> MonoAudio:
    """Return float32 [T * 960], cut or filled with zeros; audio that is off by a whole frame or more is refused."""
    if audio.ndim != 1 or audio.dtype != np.float32:
        raise ValueError(f"audio is {audio.dtype} {audio.shape}, expected float32 [L], mono")
    if num_frames < 1:
        raise ValueError(f"{num_frames} frames: audio shorter than 1 / {FRAME_RATE_HZ} s has no semantic tokens")
    # A song has less than one frame beyond its last whole one, and resampling rounds by a sample.
    expected = num_frames * SEMANTIC_HOP_LENGTH
    if not expected - SEMANTIC_HOP_LENGTH < len(audio) <= expected + SEMANTIC_HOP_LENGTH:
        raise ValueError(f"audio has {len(audio)} samples, expected about {expected} for {num_frames} frames at 24 kHz")
    if not np.isfinite(audio).all():
        raise ValueError("audio holds samples that are not finite")
    return np.pad(audio[:expected], (0, max(0, expected - len(audio))))
