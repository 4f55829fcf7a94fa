"""Which aligner serves which language, and what is said where its model cannot be had."""

import gc
import logging
import socket
import weakref
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.alignment import by_language as aligner
from pipeline.alignment.by_language import AUTOMATIC, Aligners, check_aligner, check_aligners, choose_model
from pipeline.alignment.ctc import Spelling
from pipeline.model_files.errors import ModelNotFoundError
from pipeline.model_files.hub_repositories import ALIGNER_REPOSITORIES
from pipeline.model_files.profiles import PROFILES


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
    """Also where a hub might have it: only the driver downloads."""
    with pytest.raises(ModelNotFoundError) as raised:
        Aligners("wav2vec2").for_language("fr")
    message = str(raised.value)
    assert message.startswith("aligner of language 'fr': model 'wav2vec2-fr' for stage 'aligner' not found on ")
    assert socket.gethostname() in message
    assert "jonatasgrosman/wav2vec2-large-xlsr-53-french" in message
    assert "nothing is downloaded while a job runs" in message
    assert "`python jobs/models.py fetch --languages fr`" in message


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[FakeModel]:
    """Return the models that were loaded, in order; every name has one."""
    models: list[FakeModel] = []

    def load(path: Path, name: str, *, device: str) -> FakeModel:
        models.append(FakeModel())
        models[-1].name = f"{name} of {path} on {device}"
        return models[-1]

    def resolve(name: str, stage: str, *, may_download: bool) -> Path:
        assert (stage, may_download) == ("aligner", False)
        return Path("models") / name

    monkeypatch.setattr(aligner, "load_acoustic_model", load)
    monkeypatch.setattr(aligner, "resolve_model", resolve)
    return models


def test_a_model_runs_once_per_song_and_loads_once(loaded: list[FakeModel]) -> None:
    aligners = Aligners("owner/model")
    aligner_of_english = aligners.for_language("en")
    assert aligner_of_english is not None
    song = aligner_of_english.open_song(np.zeros(48_000, np.float32), "en")
    for start_s in (0.0, 0.5):
        assert song.align(start_s, 2.0, ["la"])[0].start_s == pytest.approx(1.0)
    assert aligners.for_language("de") is aligners.for_language("en")
    assert (len(loaded), loaded[0].num_runs) == (1, 1)
    assert loaded[0].name == "owner/model of models/owner/model on cpu"


def test_a_third_language_takes_the_place_of_the_one_used_longest_ago(loaded: list[FakeModel]) -> None:
    """What was dropped is out of memory, and loads again for the next song in its language."""
    aligners = Aligners("wav2vec2")
    for language in ("en", "fr", "en", "de", "en"):
        aligners.for_language(language)
    assert [model.name.split()[0] for model in loaded] == ["wav2vec2-en", "wav2vec2-fr", "wav2vec2-de"]
    french = weakref.ref(loaded.pop(1))
    gc.collect()
    assert french() is None
    aligners.for_language("fr")
    aligners.for_language("en")
    assert [model.name.split()[0] for model in loaded] == ["wav2vec2-en", "wav2vec2-de", "wav2vec2-fr"]
    aligners.for_language("de")
    assert len(loaded) == 4


def test_dropped_models_give_their_memory_back_to_a_gpu(
    loaded: list[FakeModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    emptied = []
    monkeypatch.setattr("torch.cuda.empty_cache", lambda: emptied.append(len(loaded)))
    aligners = Aligners("wav2vec2", device="cuda")
    for language in ("en", "fr", "de"):
        aligners.for_language(language)
    assert emptied == [2]  # before the third one loads
    assert loaded[2].name.endswith("on cuda")


def test_what_identifies_an_aligner(tmp_path: Path) -> None:
    assert check_aligner("whisper", "auto") == "whisper"
    assert check_aligner("wav2vec2", "auto") == "wav2vec2"
    assert check_aligner("wav2vec2", "mi") == "wav2vec2"
    with pytest.raises(ModelNotFoundError, match="wav2vec2-large-xlsr-53-chinese-zh-cn"):
        check_aligner("wav2vec2", "zh")
    for name in ("config.json", "vocab.json", "preprocessor_config.json", "pytorch_model.bin"):
        (tmp_path / name).write_text(name)
    by_pickle = check_aligner(str(tmp_path), "auto")
    (tmp_path / "model.safetensors").write_text("x")  # wins
    (tmp_path / "pytorch_model.bin").write_text("other")
    by_safetensors = check_aligner(str(tmp_path), "en")
    (tmp_path / "pytorch_model.bin").unlink()
    assert check_aligner(str(tmp_path), "fr") == by_safetensors
    (tmp_path / "vocab.json").write_text("other")
    assert len({by_pickle, by_safetensors, check_aligner(str(tmp_path), "en")}) == 3


def test_the_packaged_aligner_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.model_files.packaged.find_phone_recogniser", lambda searched: None)
    with pytest.raises(ModelNotFoundError, match="requirements-demo.lock: make setup"):
        check_aligner("miniature", "en")


def test_aligners_are_fetched_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each language once; those that attention serves alone need none."""
    asked = []

    def resolve(name: str, stage: str, *, may_download: bool) -> Path:
        asked.append((name, may_download))
        return Path(name)

    monkeypatch.setattr(aligner, "resolve_model", resolve)
    check_aligners("wav2vec2", ["fr", "en", "fr", "mi", ""])
    assert asked == [("wav2vec2-en", True), ("wav2vec2-fr", True)]
    asked.clear()
    check_aligners("whisper", ["fr", "en"])
    check_aligners("/models/mine", [])
    assert asked == []
    check_aligners("/models/mine", ["fr"])
    assert asked == [("/models/mine", True)]


def test_an_aligner_that_cannot_be_fetched_names_its_language() -> None:
    with pytest.raises(
        ModelNotFoundError, match=r"^aligner of language 'de': .*HF_HUB_OFFLINE is set.*--languages de`"
    ):
        check_aligners("wav2vec2", ["de"])


def test_names_that_are_no_model_of_their_own() -> None:
    assert all(profile.aligner in AUTOMATIC for profile in PROFILES.values())
    assert "wav2vec2-en" not in AUTOMATIC
