"""Audio to semantic tokens: MuQ features (arXiv:2501.01108) of one layer, then the nearest code of the codebook.

Shape legend: L samples at 24 kHz, T frames of 960 samples (25 Hz), D feature channels.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.codebook import Codebook, Features
from pipeline.models import ModelFileError, fingerprint_model, read_config
from pipeline.weights import check_tensors, read_safetensors
from shards.schema import FRAME_RATE_HZ, SEMANTIC_HOP_LENGTH

MonoAudio = NDArray[np.float32]  # [L] at 24 kHz, full scale = 1.0

# The mel front end mirrors 1024 samples at each end and needs more than that: two frames.
_MIN_WINDOW_FRAMES = 2
# Where the weights show a size that config.json states.
_SIZE_KEYS = {
    "encoder_dim": "model.cls_token",
    "conv_dim": "model.conv.conv.0.conv1.weight",
    "codebook_size": "model.linear.weight",
}
# Sizes that the weights show in one place or another: none can be larger than their longest axis.
_BOUNDED_KEYS = (
    *("codebook_dim", "conv_dim", "num_codebooks", "rvq_n_codebooks", "rvq_multi_layer_num", "label_rate"),
    *("intermediate_size", "conv_depthwise_kernel_size", "num_conv_pos_embeddings", "num_attention_heads"),
)
_MAX_POSITIONS = 1 << 16  # of relative position embeddings: MuQ has 5000 where it has any
# Settings that load other files or code, or that only MuQ's training uses.
_UNUSED_SETTINGS = {"rvq_ckpt_path": None, "resume_checkpoint": None, "is_flash": False}


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
    """MuQ and a codebook, in float32; the same audio gives the same tokens every time on the same machine."""

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
        if muq is not None and muq != fingerprint_model(self._muq_path):
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
        for at in range(0, len(windows), self._batch_size):
            batch = windows[at : at + self._batch_size]
            rows = [samples[item.start * SEMANTIC_HOP_LENGTH : item.stop * SEMANTIC_HOP_LENGTH] for item in batch]
            for item, hidden in zip(batch, self._hidden(np.stack(rows)), strict=True):
                kept = hidden[item.keep_start - item.start : item.keep_stop - item.start]
                output[item.keep_start : item.keep_stop] = kept
        return output

    @torch.inference_mode()
    def _hidden(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        num_frames = samples.shape[1] // SEMANTIC_HOP_LENGTH
        missing = max(_MIN_WINDOW_FRAMES - num_frames, 0) * SEMANTIC_HOP_LENGTH
        padded = torch.from_numpy(np.pad(samples, ((0, 0), (0, missing)))).to(self._device)
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


def load_muq(folder: Path, layer: int) -> Any:  # muq.MuQ; the package is untyped
    """Load MuQ (`config.json` and `model.safetensors`, as on the hub) in float32, cut off after `layer`.

    Raises:
        ModelFileError: damaged files, unknown settings, or weights that do not fit them.
    """
    settings = read_config(folder / "config.json")
    tensors = read_safetensors(folder / "model.safetensors", "MuQ's weights")
    model = _build_muq(settings, tensors, folder)
    _load_strictly(model, tensors, folder / "model.safetensors")
    conformer = model.model.conformer
    if not 0 <= layer <= len(conformer.layers):
        raise ModelFileError(f"{folder}: no hidden state {layer}, MuQ has 0 to {len(conformer.layers)}")
    if layer < len(conformer.layers):
        # Later layers cost time only; the norm after the last one belongs to the last hidden state alone.
        conformer.layers = conformer.layers[:layer]
        conformer.layer_norm = nn.Identity()
    model.model.linear = nn.Identity()  # scores of MuQ's own targets, which only its training uses
    return model.eval().requires_grad_(False)


def _build_muq(settings: dict[str, Any], tensors: dict[str, Tensor], folder: Path) -> Any:
    from muq import MuQ, MuQConfig

    unknown = sorted(set(settings) - {item.name for item in fields(MuQConfig)})
    if unknown:
        raise ModelFileError(f"{folder}: config.json has settings {unknown} that MuQ does not know")
    if settings.get("use_encodec_target"):
        raise ModelFileError(f"{folder}: use_encodec_target needs a model that is downloaded on loading")
    config = MuQConfig(**(settings | _UNUSED_SETTINGS))
    # Sizes are compared before anything is built, or a wrong number could take all memory.
    for name, key in _SIZE_KEYS.items():
        found = tuple(tensors[key].shape)[:1] if key in tensors else ()
        if (getattr(config, name),) != found:
            raise ModelFileError(f"{folder}: config.json says {name} {getattr(config, name)}, {key} has {found}")
    depth = len({key.split(".")[3] for key in tensors if key.startswith("model.conformer.layers.")})
    if config.encoder_depth != depth:
        raise ModelFileError(
            f"{folder}: config.json says encoder_depth {config.encoder_depth}, the weights have {depth} layers"
        )
    _check_sizes(settings, tensors, folder)
    with _own_random_state():
        try:
            return MuQ(config)
        except (TypeError, ValueError, AttributeError, LookupError, RuntimeError) as error:
            raise ModelFileError(f"{folder}: MuQ cannot be built from config.json: {error!r}") from error


def _check_sizes(settings: dict[str, Any], tensors: dict[str, Tensor], folder: Path) -> None:
    inner = settings.get("w2v2_config")
    longest = max((axis for tensor in tensors.values() for axis in tensor.shape), default=0)
    limits = dict.fromkeys(_BOUNDED_KEYS, max(longest, FRAME_RATE_HZ)) | {"max_source_positions": _MAX_POSITIONS}
    for name, value in (settings | (inner if isinstance(inner, dict) else {})).items():
        if name in limits and not (type(value) is int and 0 <= value <= limits[name]):
            raise ModelFileError(
                f"{folder}: config.json says {name} {value!r}, expected 0 to {limits[name]}: the weights are smaller"
            )


@contextmanager
def _own_random_state() -> Iterator[None]:
    """Keep the caller's random numbers: MuQ's constructor seeds the global generators."""
    python_state = random.getstate()
    with torch.random.fork_rng(devices=[]):
        yield
    random.setstate(python_state)


def _load_strictly(model: Any, tensors: dict[str, Tensor], path: Path) -> None:
    state = {}
    for key, value in tensors.items():
        # Weights saved with older versions of PyTorch spell weight norm otherwise.
        renamed = key.replace("conv.weight_g", "conv.parametrizations.weight.original0")
        renamed = renamed.replace("conv.weight_v", "conv.parametrizations.weight.original1")
        state[renamed] = value.float() if value.is_floating_point() else value
    check_tensors(state, model.state_dict(), path)
    model.load_state_dict(state, strict=True)
