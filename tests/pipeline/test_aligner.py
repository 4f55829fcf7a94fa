"""Which aligner serves which language, and what is said where its model cannot be had."""

import logging
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline import aligner, models
from pipeline.aligner import Aligners, check_aligner, choose_model
from pipeline.aligner_models import ALIGNER_REPOSITORIES
from pipeline.ctc_aligner import Spelling
from pipeline.models import ModelNotFoundError
from pipeline.profiles import PROFILES


class FakeModel:
    """Hears the token 1 from 1.0 s to 1.1 s; the word "la" is that token."""

    name = "fake"
    blank = 0
    onset_lead_s = 0.0
    num_runs = 0

    def listen(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        self.num_runs += 1
        probabilities = np.tile([0.98, 0.01, 0.01], (len(samples) // 320, 1))
        probabilities[50:55] = [0.01, 0.98, 0.01]
        return np.log(probabilities).astype(np.float32)

    def spell(self, word: str, language: str) -> Spelling:
        return {"la": ((1,),), "lo": ((2,),)}.get(word, ())


@pytest.mark.parametrize(
    ("name", "language", "model"),
    [
        ("whisper", "en", None),
        ("wav2vec2", "en", "wav2vec2-en"),
        ("wav2vec2", "zh", "wav2vec2-zh"),
        ("wav2vec2", "mi", None),
        ("miniature", "en", "miniature"),
        ("miniature", "fr", "miniature"),
        ("miniature", "ru", None),
        ("owner/model", "ru", "owner/model"),
    ],
)
def test_the_model_of_a_language(name: str, language: str, model: str | None) -> None:
    assert choose_model(name, language) == model


def test_profiles_name_aligners() -> None:
    assert choose_model(PROFILES["full"].aligner, "en") == "wav2vec2-en"
    assert choose_model(PROFILES["miniature"].aligner, "zh") == "miniature"


def test_every_repository_is_an_owner_and_a_name() -> None:
    assert {"en", "zh", "es", "fr", "de", "ja", "ko"} <= {
        name.removeprefix("wav2vec2-") for name in ALIGNER_REPOSITORIES
    }
    assert all(repository.count("/") == 1 for repository in ALIGNER_REPOSITORIES.values())


def test_a_language_without_a_model_has_attention_alone_and_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert Aligners("wav2vec2").for_language("mi") is None
    assert Aligners("whisper").for_language("en") is None
    assert "language mi: words are placed by Whisper's cross-attention alone" in caplog.text


def test_a_language_whose_model_is_missing_stops() -> None:
    with pytest.raises(ModelNotFoundError) as raised:
        Aligners("wav2vec2").for_language("fr")
    message = str(raised.value)
    assert "model 'wav2vec2-fr' for stage 'aligner' not found" in message
    assert "jonatasgrosman/wav2vec2-large-xlsr-53-french" in message
    assert all(way in message for way in ("(1)", "(2)", "(3)"))


def test_a_model_runs_once_per_song_and_loads_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []

    def load(name: str, *, device: str) -> FakeModel:
        loaded.append(FakeModel())
        return loaded[-1]

    monkeypatch.setattr(aligner, "load_acoustic_model", load)
    aligners = Aligners("owner/model")
    aligner_of_english = aligners.for_language("en")
    assert aligner_of_english is not None
    song = aligner_of_english.open_song(np.zeros(48_000, np.float32), "en")
    for start_s in (0.0, 0.5):
        assert song.align(start_s, 2.0, ["la"])[0].start_s == pytest.approx(1.0)
    assert aligners.for_language("de") is aligners.for_language("en")
    assert (len(loaded), loaded[0].num_runs) == (1, 1)


def test_what_is_checked_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_aligner("whisper", "auto") == "whisper"
    assert check_aligner("wav2vec2", "auto") == "wav2vec2"
    assert check_aligner("wav2vec2", "mi") == "wav2vec2"
    with pytest.raises(ModelNotFoundError, match="wav2vec2-large-xlsr-53-chinese-zh-cn"):
        check_aligner("wav2vec2", "zh")
    (tmp_path / "model.safetensors").write_text("x")
    assert len(check_aligner(str(tmp_path), "auto")) == 64
    monkeypatch.setattr(models, "_package_folder", lambda *_: None)
    with pytest.raises(ModelNotFoundError, match=r"stage 'aligner' not found \(pip install hama==1\.7\.0\)"):
        check_aligner("miniature", "en")
