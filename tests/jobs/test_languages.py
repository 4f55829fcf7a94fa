"""Languages are ISO 639-1 wherever they come in: flags, manifests, names of files, tags, lyrics, and Whisper's own."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from jobs import clean_lyrics
from jobs.checks.model_list import read_languages
from jobs.clean_survey import Survey
from jobs.command import read_language
from jobs.extract_tokens import Survey as RawSurvey
from pipeline.catalogue.inputs import find_songs
from pipeline.input_file import InputError
from pipeline.transcription.transcription import Listening
from pipeline.transcription.whisper import Whisper

from .fake_cleaning import SETTINGS, lay_out

pytestmark = pytest.mark.demo_weights

NAMES = {"English": "en", "zh-CN": "zh", "pt_BR": "pt", "deu": "de", "日本語": "ja", "Cantonese": "zh"}
FRENCH = "Je ne sais pas pourquoi\nTu es parti dans la nuit\nEt je reste avec mes souvenirs\nSur le pont de la ville"


@pytest.mark.parametrize(("name", "code"), [*NAMES.items(), ("auto", "auto"), ("und", "auto")])
def test_flags_take_names(name: str, code: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert read_language(name) == code

    def clean(source, out, settings, options, limit):
        return {"failed": 0, "seen": 0, "rejected": {}, "quarantined": 0, "language": settings.language}

    monkeypatch.setattr(clean_lyrics, "clean", clean)
    monkeypatch.setattr("sys.argv", ["clean_lyrics.py", "--in", str(tmp_path), "--language", name])
    assert clean_lyrics.main()[0]["language"] == code


def test_flags_refuse_what_is_no_language() -> None:
    with pytest.raises(InputError, match="--language: language 'klingon' is not known"):
        read_language("klingon")
    assert read_languages("English, zh-CN,en") == ["en", "zh"]
    for text in ("", "auto", "klingon"):
        with pytest.raises(InputError, match="--languages"):
            read_languages(text)


@pytest.mark.parametrize("name", NAMES)
def test_manifests_take_names(name: str, tmp_path: Path) -> None:
    (tmp_path / "songs.jsonl").write_text(json.dumps({"audio": "a.mp3", "language": name}))
    assert [song.language for song in find_songs(tmp_path / "songs.jsonl")] == [NAMES[name]]


@pytest.mark.parametrize(
    ("lyrics", "said", "identified"),
    [("a.txt", "", "fr"), ("a.fr.txt", "fr", "fr"), ("la la la", "", ""), ("[la:Spanish]\nla la la", "", "es")],
)
def test_where_nobody_says_it_the_text_does(lyrics, said, identified, tmp_path, monkeypatch) -> None:
    """In cleaning, whose survey looks for aligners by it, and in extraction without cleaning."""
    raw = lay_out(tmp_path / "raw", monkeypatch.setattr)
    for path in raw.glob("*.txt"):
        path.unlink()
    is_name = lyrics.endswith(".txt")
    (raw / (lyrics if is_name else "a.txt")).write_text(FRENCH if is_name else lyrics)
    song = next(song for song in find_songs(raw) if song.song_id == "a")
    assert song.language == said
    found = Survey(tmp_path / "out", SETTINGS, "f")({"source": song})
    assert found["text_language"] == identified
    assert RawSurvey({})({"source": song})["song"].row["language"] == (identified or "und")


def test_codes_of_whisper_s_own_become_iso() -> None:
    listening = Listening.__new__(Listening)
    listening._whisper = SimpleNamespace(is_multilingual=True)  # type: ignore[assignment]
    listening.windows = [SimpleNamespace(voiced_s=2.0)]  # type: ignore[assignment]
    listening.encoded = SimpleNamespace(batches=[None])  # type: ignore[assignment]
    heard = [("<|yue|>", 0.3), ("<|zh|>", 0.4), ("<|jw|>", 0.2), ("<|nn|>", 0.1)]
    listening._ask_language = lambda encoded, rows: [heard for _ in rows]  # type: ignore[method-assign]
    assert listening.identify_language() == pytest.approx({"zh": 0.7, "jv": 0.2, "no": 0.1})
    whisper = Whisper.__new__(Whisper)
    whisper.languages = ("en", "jw", "zh")
    for code in ("jv", "zh"):
        whisper.require_language(code)
