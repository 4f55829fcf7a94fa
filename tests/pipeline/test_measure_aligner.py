"""The command that measures a CTC aligner, on a song of tones and a model that hears them."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from pipeline import measure_aligner
from pipeline.alignment.ctc import Spelling

ONSETS_S = {"aa": 1.0, "bb": 2.0, "cc": 3.0}


class HearsInOrder:
    """Hears the letters a, b and c at 1, 2 and 3 s."""

    name = "fake"
    blank = 0
    onset_lead_s = 0.0

    def listen(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        probabilities = np.tile([0.97, 0.01, 0.01, 0.01], (len(samples) // 320, 1))
        for token, onset_s in enumerate(ONSETS_S.values(), 1):
            probabilities[round(onset_s * 50) :][:5] = np.eye(4)[token] * 0.96 + 0.01
        return np.log(probabilities).astype(np.float32)

    def spell(self, word: str, language: str) -> Spelling:
        return ((" abc".index(word[0]),),)


def write_songs(folder: Path, words: Sequence[str]) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 4 * 16_000)
    (folder / "truth" / "one").mkdir(parents=True)
    (folder / "vocals").mkdir()
    soundfile.write(folder / "truth" / "one" / "mixture.flac", noise, 16_000)
    soundfile.write(folder / "vocals" / "one__mixture.flac", noise, 16_000)
    rows = [{"text": word, "start": ONSETS_S[word] + 0.1, "end": ONSETS_S[word] + 0.5} for word in words]
    (folder / "truth" / "one" / "truth.json").write_text(json.dumps({"language": "en", "words": rows}))
    for part in ("annotations/words", "lyrics", "audio"):
        (folder / "truth" / part).mkdir(parents=True)
    (folder / "truth" / "annotations" / "words" / "two.csv").write_text("word_start,word_end\n1.0,1.5\n2.0,2.5\n")
    (folder / "truth" / "lyrics" / "two.words.txt").write_text("aa\ncc\n")
    soundfile.write(folder / "truth" / "audio" / "two.wav", noise, 16_000)
    soundfile.write(folder / "vocals" / "two.flac", noise, 16_000)


@pytest.mark.demo_weights
def test_rows_of_both_layouts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_songs(tmp_path, ["aa", "bb", "cc"])
    monkeypatch.setattr("pipeline.alignment.by_language.load_acoustic_model", lambda path, name, device: HearsInOrder())
    arguments = [str(tmp_path / "truth"), str(tmp_path / "vocals"), "--languages", "fr"]
    assert measure_aligner.main(arguments) == 0
    one, two = (line.split() for line in capsys.readouterr().out.splitlines()[1:])
    assert one[:5] == ["one", "3", "0.100", "0.100", "1.000"]
    assert two[:5] == ["two", "2", "0.500", "0.500", "0.500"]  # the second word is heard a second late
    assert float(one[5]) > 0.5


def test_a_model_that_is_missing_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_songs(tmp_path, ["aa"])
    arguments = [str(tmp_path / "truth"), str(tmp_path / "vocals"), "--languages", "fr", "--aligner", "wav2vec2"]
    with pytest.raises(SystemExit) as raised:
        measure_aligner.main(arguments)
    assert raised.value.code == 2
    assert "aligner of language 'en': model 'wav2vec2-en'" in capsys.readouterr().err


def test_a_language_without_a_model_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_songs(tmp_path, ["aa"])
    with pytest.raises(SystemExit):
        measure_aligner.main(
            [str(tmp_path / "truth"), str(tmp_path / "vocals"), "--languages", "ru", "--aligner", "whisper"]
        )
    assert "one: whisper has no model for language 'en'" in capsys.readouterr().err
