"""The voice activity network gives what pyannote.audio gives with the same weights; other files are refused."""

import subprocess
import sys

import pytest
import torch

from pipeline.model_files.errors import ModelFileError
from pipeline.transcription import voice_network
from pipeline.transcription.voice_detector import VOICE_FRAME_S, VOICE_STEP_S
from pipeline.transcription.voice_network import load_voice_network


def make_windows() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    noise = 0.1 * torch.randn(2, 80_000, generator=generator)
    return torch.cat([noise, torch.zeros(1, 80_000)])


@pytest.mark.slow
def test_it_equals_the_original():
    from whisperx.vads import Pyannote

    original = Pyannote(torch.device("cpu"), vad_onset=0.5).vad_pipeline._segmentation.model
    windows = make_windows()
    with torch.inference_mode():
        expected = original(windows[:, None]).amax(dim=-1)
        found = load_voice_network()(windows)
    assert (found - expected).abs().max() < 1e-6  # the same operations; measured: equal
    receptive_field = original.receptive_field
    assert receptive_field.step == pytest.approx(VOICE_STEP_S)
    assert receptive_field.duration == pytest.approx(VOICE_FRAME_S)


def test_a_window_of_five_seconds():
    with torch.inference_mode():
        found = load_voice_network()(make_windows())
    assert found.shape == (3, 293)
    assert 0 <= found.min() <= found.max() <= 1


class Trap:
    def __reduce__(self) -> tuple:
        return print, ("run",)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"state_dict": {"classifier.bias": torch.zeros(3)}}, "is missing"),
        ({"weights": {}}, "state_dict"),
        (Trap(), "expected the voice activity model"),
    ],
    ids=["missing weights", "other keys", "a pickle that runs code"],
)
def test_other_files_are_refused_and_nothing_in_them_runs(monkeypatch, tmp_path, capsys, content, reason):
    torch.save(content, tmp_path / "pytorch_model.bin")
    monkeypatch.setattr(voice_network, "_find_weights", lambda: tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelFileError, match=reason):
        load_voice_network()
    assert "run" not in capsys.readouterr().out


def test_no_file(monkeypatch, tmp_path):
    monkeypatch.setattr(voice_network, "_find_weights", lambda: tmp_path / "none.bin")
    with pytest.raises(ModelFileError, match="none.bin"):
        load_voice_network()


def test_a_worker_that_listens_loads_neither_pyannote_nor_a_compiler():
    code = """
import sys
from pipeline.model_files.names import resolve_model
from pipeline.separation.demucs_weights import load_separator
from pipeline.transcription.voice_detector import VoiceDetector
load_separator(resolve_model("miniature", "separator"))
VoiceDetector()
print([name for name in ("pyannote.audio", "lightning", "torch._dynamo", "sympy") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
