"""The network of the voice activity model that comes with WhisperX, in PyTorch alone, with the weights of that package.

Through pyannote.audio, which it was written for, a worker waits three seconds for libraries that nothing else needs.
tests/pipeline/transcription/test_voice_network.py compares the two.

Band-pass filters that were learned (SincNet, arXiv:1808.00158), recurrent layers, and for each frame the probability of
up to three voices at once (PyanNet of pyannote.audio, arXiv:2104.04045).
"""

import importlib.util
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.model_files.errors import ModelFileError
from pipeline.model_files.tensors import check_tensors, read_torch_file

NUM_FILTERS, FILTER_SAMPLES, FILTER_STRIDE = 80, 251, 10
MIN_FILTER_HZ = 50
NUM_CHANNELS, KERNEL, POOL = 60, 5, 3
HIDDEN, NUM_LAYERS, NUM_VOICES = 128, 4, 3
# What the training left in the file beside the weights: none of it is needed, and all of it is read as None.
_LEFTOVERS = (
    "pyannote.audio.core.model.Introspection",
    "pyannote.audio.core.task.Problem",
    "pyannote.audio.core.task.Resolution",
    "pyannote.audio.core.task.Specifications",
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
    "omegaconf.listconfig.ListConfig",
    "omegaconf.nodes.AnyNode",
    "torch.torch_version.TorchVersion",
    "typing.Any",
    "builtins.dict",
    "builtins.int",
    "builtins.list",
    "collections.defaultdict",
)


class _Nothing:
    def __init__(self, *args: object) -> None:
        """Take whatever the object was made of."""

    def __setstate__(self, state: object) -> None:
        """Forget the state."""


class _Filters(nn.Module):
    """Learned band-pass filters, their weights named as in the file."""

    def __init__(self) -> None:
        super().__init__()
        from asteroid_filterbanks import ParamSincFB

        self.filterbank = ParamSincFB(
            NUM_FILTERS, FILTER_SAMPLES, stride=FILTER_STRIDE, min_low_hz=MIN_FILTER_HZ, min_band_hz=MIN_FILTER_HZ
        )

    def forward(self, samples: Tensor) -> Tensor:
        result: Tensor = functional.conv1d(samples, self.filterbank.filters(), stride=FILTER_STRIDE)
        return result


class _FrontEnd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wav_norm1d = nn.InstanceNorm1d(1, affine=True)
        self.conv1d = nn.ModuleList(
            [
                _Filters(),
                nn.Conv1d(NUM_FILTERS, NUM_CHANNELS, KERNEL),
                nn.Conv1d(NUM_CHANNELS, NUM_CHANNELS, KERNEL),
            ]
        )
        self.norm1d = nn.ModuleList(
            nn.InstanceNorm1d(channels, affine=True) for channels in (NUM_FILTERS, NUM_CHANNELS, NUM_CHANNELS)
        )

    def forward(self, samples: Tensor) -> Tensor:
        x: Tensor = self.wav_norm1d(samples)
        for index, (convolve, norm) in enumerate(zip(self.conv1d, self.norm1d, strict=True)):
            x = convolve(x)
            x = functional.leaky_relu(norm(functional.max_pool1d(x if index else x.abs(), POOL)))
        return x


class VoiceNetwork(nn.Module):
    """Where windows of 16 kHz mono hold a voice."""

    def __init__(self) -> None:
        """Build the layers."""
        super().__init__()
        self.sincnet = _FrontEnd()
        self.lstm = nn.LSTM(NUM_CHANNELS, HIDDEN, NUM_LAYERS, bidirectional=True, batch_first=True)
        self.linear = nn.ModuleList([nn.Linear(2 * HIDDEN, HIDDEN), nn.Linear(HIDDEN, HIDDEN)])
        self.classifier = nn.Linear(HIDDEN, NUM_VOICES)

    def forward(self, windows: Tensor) -> Tensor:
        """Return the probability of a voice, [B, F], a frame per `VOICE_STEP_S`, for float32 [B, L]."""
        x, _ = self.lstm(self.sincnet(windows[:, None]).transpose(1, 2))
        for layer in self.linear:
            x = functional.leaky_relu(layer(x))
        voices: Tensor = self.classifier(x).sigmoid()
        return voices.amax(dim=-1)


def load_voice_network() -> VoiceNetwork:
    """Return the network with the weights that the package whisperx ships.

    Raises:
        ModelFileError: the package or its file is missing, or the file holds something else.
    """
    path = _find_weights()
    with torch.serialization.safe_globals([(_Nothing, name) for name in _LEFTOVERS]):
        tensors = read_torch_file(path, "the voice activity model of whisperx 3.8")
    network = VoiceNetwork()
    check_tensors(tensors, network.state_dict(), path)
    network.load_state_dict(tensors)
    return network.eval()


def _find_weights() -> Path:
    package = importlib.util.find_spec("whisperx")  # finding is not importing
    if package is None or package.origin is None:
        raise ModelFileError("voice activity: the package whisperx is not installed; run `make setup`")
    return Path(package.origin).parent / "assets" / "pytorch_model.bin"
