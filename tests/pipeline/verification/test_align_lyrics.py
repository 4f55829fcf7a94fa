"""The stage as a whole: its verdicts, and what becomes of every given line."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.model_files.errors import ModelNotFoundError
from pipeline.song import Drop, Song, TimedWord, Transcript, Word
from pipeline.transcription.whisper import LanguageError
from pipeline.verification import align_lyrics
from pipeline.verification.align_lyrics import AlignLyrics, measure_evidence
from pipeline.verification.place_words import place_words

from .sung_song import HARBOUR, HORSES, LANTERNS, OTHER_SONG, SUMMER, SungSong, give, hear


def open_song(lyrics: str, heard: list[Word]) -> Song:
    song = Song(song_id="a", path=Path("a.wav"), audio="a.wav", lyrics_text=lyrics, language="en", duration_s=20.0)
    song.voice = song.speech = np.zeros(16_000, np.float32)
    song.transcript = Transcript(heard, "en", 0.0)
    return song


def require_language(language: str) -> None:
    if language != "en":
        raise LanguageError(f"language is {language!r}")


def align(monkeypatch: pytest.MonkeyPatch, song: Song, audio: SungSong) -> Song | Drop:
    monkeypatch.setattr(align_lyrics, "SungAudio", lambda *_: audio)
    stage = AlignLyrics(AlignLyrics.Config(model_path=Path("unused")))
    stage._whisper = SimpleNamespace(require_language=require_language)  # type: ignore[assignment]
    stage._aligners = SimpleNamespace(for_language=lambda _: None)  # type: ignore[assignment]
    return stage.process(song)


def test_headers_reach_the_stage_that_labels_sections():
    song = open_song("[Verse]\n\n[Guitar Solo]\n", [])
    result = AlignLyrics(AlignLyrics.Config(model_path=Path("unused"))).process(song)
    assert isinstance(result, Drop)
    assert result.reason == "no_lyrics"
    assert song.header_labels == ["verse", "inst"]


def test_a_language_that_the_verifier_does_not_know(monkeypatch):
    song = open_song(LANTERNS, hear(LANTERNS, 2))
    song.language = "xx"
    result = align(monkeypatch, song, SungSong((LANTERNS, 2)))
    assert isinstance(result, Drop)
    assert (result.reason, result.detail) == ("language", "language is 'xx'")
    assert [(line.text, line.reason) for line in song.dropped] == [(LANTERNS, "not_sung")]


def test_a_fault_of_a_model_is_no_verdict_on_a_song(monkeypatch):
    def for_language(language):
        raise ModelNotFoundError(f"aligner of language {language!r}: not found")

    stage = AlignLyrics(AlignLyrics.Config(model_path=Path("unused")))
    stage._whisper = SimpleNamespace(require_language=require_language)  # type: ignore[assignment]
    stage._aligners = SimpleNamespace(for_language=for_language)  # type: ignore[assignment]
    song = open_song(LANTERNS, hear(LANTERNS, 2))
    song.encoded = SimpleNamespace(whisper=stage._whisper)  # type: ignore[assignment]
    with pytest.raises(ModelNotFoundError, match="aligner of language 'en'"):
        stage.process(song)


def test_lines_are_kept_repaired_found_and_dropped(monkeypatch):
    """One line was not heard, one is of another song, and one has a word that is not sung."""
    sung_horses = "seven camels cross our valley"
    lyrics = f"[Verse]\n{LANTERNS}\n{HARBOUR}\n{OTHER_SONG}\n[Chorus]\n{SUMMER}\n{HORSES}\n"
    heard = [*hear(LANTERNS, 2), *hear(SUMMER, 10), *hear(sung_horses, 14)]
    audio = SungSong((LANTERNS, 2), (HARBOUR, 6), (SUMMER, 10), (sung_horses, 14))
    song = open_song(lyrics, heard)
    assert align(monkeypatch, song, audio) is song
    assert [(line.text, line.section, line.edit) for line in song.lines] == [
        (LANTERNS, "verse", "kept"),
        (HARBOUR, "verse", "kept"),
        (SUMMER, "chorus", "kept"),
        (sung_horses, "chorus", "repaired"),
    ]
    assert [(line.text, line.reason, line.line_number) for line in song.dropped] == [(OTHER_SONG, "not_sung", 4)]
    assert [word.text for word in song.words if word.line == 3] == sung_horses.split()
    assert [word.start_s for word in song.words if word.line == 1] == pytest.approx([6.0, 6.4, 6.8, 7.2, 7.6])
    assert song.metrics["mean_score"] == pytest.approx(0.9)
    assert song.metrics["given_found"] < 1.0


@pytest.mark.parametrize(("support", "is_kept"), [(0.0, True), (-0.1, False)])
def test_no_line_stays_where_silence_explains_it_better(monkeypatch, support, is_kept):
    """Lines that were borne out may be squeezed by others in the last placement."""

    def squeeze(lines, audio):
        place_words(lines, audio)
        for line in lines:
            line.support = support if line.text == HARBOUR else line.support

    monkeypatch.setattr(align_lyrics, "place_words", squeeze)
    audio = SungSong((LANTERNS, 2), (HARBOUR, 6))
    song = open_song(f"{LANTERNS}\n{HARBOUR}", [*hear(LANTERNS, 2), *hear(HARBOUR, 6)])
    assert align(monkeypatch, song, audio) is song
    assert [line.text for line in song.lines] == [LANTERNS, HARBOUR][: 1 + is_kept]
    assert [(line.text, line.reason, line.support) for line in song.dropped] == [(HARBOUR, "not_sung", -0.1)][is_kept:]
    song = open_song(HARBOUR, hear(HARBOUR, 6))
    result = align(monkeypatch, song, audio)
    assert (result is song) is is_kept
    if not is_kept:
        assert isinstance(result, Drop)
        assert result.reason == "low_coverage"


def test_adlibs_are_dropped_with_their_reason(monkeypatch):
    """Once for every line as given; a line that is nothing but an ad-lib is a line."""
    song = open_song(
        f"{LANTERNS} (whoa oh) (x2)\n({SUMMER})", [*hear(LANTERNS, 2), *hear(LANTERNS, 6), *hear(SUMMER, 10)]
    )
    align(monkeypatch, song, SungSong((LANTERNS, 2), (LANTERNS, 6), (SUMMER, 10)))
    assert [line.text for line in song.lines] == [LANTERNS, LANTERNS, SUMMER]
    assert [(line.text, line.reason, line.line_number) for line in song.dropped] == [("whoa oh", "adlib", 1)]


def test_lines_span_their_words(monkeypatch):
    """Also where the first word is so long that the search for it would start later."""

    class Slow(SungSong):
        def align(self, start_s, end_s, lines):
            (first, *rest), *others = super().align(start_s, end_s, lines)
            return [[TimedWord(start_s, first.end_s, 0.9), *rest], *others]

    song = open_song(f"{LANTERNS}\n{HARBOUR}", [*hear(LANTERNS, 3), *hear(HARBOUR, 8)])
    assert align(monkeypatch, song, Slow((LANTERNS, 3), (HARBOUR, 8))) is song
    for k, line in enumerate(song.lines):
        words = [word for word in song.words if word.line == k]
        assert (line.start_s, line.end_s) == (words[0].start_s, words[-1].end_s)


@pytest.mark.parametrize("sound_evidence", [None, 0.44])
def test_lyrics_of_another_song_are_a_mismatch(monkeypatch, sound_evidence):
    song = open_song(f"{OTHER_SONG}\n{HORSES}", [*hear(LANTERNS, 2), *hear(HARBOUR, 6)])
    audio = SungSong((LANTERNS, 2), (HARBOUR, 6))
    audio.sound_evidence = sound_evidence
    result = align(monkeypatch, song, audio)
    assert isinstance(result, Drop)
    assert result.reason == "lyrics_mismatch"
    assert [line.text for line in song.dropped] == [OTHER_SONG, HORSES]


@pytest.mark.parametrize("score", [0.9, 0.3])
def test_lyrics_that_only_the_recogniser_heard_are_not_sung(monkeypatch, score):
    song = open_song(f"{LANTERNS}\n{HARBOUR}", [*hear(LANTERNS, 2, score=score), *hear(HARBOUR, 6, score=score)])
    result = align(monkeypatch, song, SungSong((OTHER_SONG, 2), (OTHER_SONG, 6)))
    assert isinstance(result, Drop)
    assert result.reason == "low_coverage"
    assert "no given line is borne out by the audio" in result.detail
    assert [(line.text, line.reason, line.line_number) for line in song.dropped] == [
        (LANTERNS, "not_sung", 1),
        (HARBOUR, "not_sung", 2),
    ]


def test_sounds_speak_for_lyrics_that_were_not_heard(monkeypatch):
    song = open_song(f"{LANTERNS}\n{HARBOUR}", hear("mumbling something else entirely", 2, score=0.3))
    audio = SungSong((LANTERNS, 2), (HARBOUR, 6))
    audio.sound_evidence = 0.46
    assert align(monkeypatch, song, audio) is song
    assert [line.text for line in song.lines] == [LANTERNS, HARBOUR]
    assert song.metrics["sound_evidence"] == 0.46


@pytest.mark.parametrize(("sound_evidence", "is_kept"), [(0.43, True), (0.2, False)])
def test_words_and_sounds_that_each_say_too_little_speak_together(monkeypatch, sound_evidence, is_kept):
    """Five of thirty words were heard: 0.11 of the 0.15 that they need alone."""
    unheard = [" ".join(f"{c * 3}{n}" for c in "bcdfg") for n in ("one", "two", "six", "ten", "zen")]
    song = open_song("\n".join([LANTERNS, *unheard]), hear(LANTERNS, 2))
    audio = SungSong((LANTERNS, 2), *((line, 5 + 3 * k) for k, line in enumerate(unheard)))
    audio.sound_evidence = sound_evidence
    result = align(monkeypatch, song, audio)
    assert 0.09 < song.metrics["evidence"] < 0.14
    assert (result is song) == is_kept
    if not is_kept:
        assert isinstance(result, Drop)
        assert result.reason == "lyrics_mismatch"


def test_lyrics_that_explain_little_of_what_was_heard(monkeypatch):
    other = [word for k in range(8) for word in hear(" ".join(f"{c * 7}{k}" for c in "bcdfg"), 6 + 2 * k)]
    song = open_song(LANTERNS, [*hear(LANTERNS, 2), *other])
    result = align(monkeypatch, song, SungSong((LANTERNS, 2)))
    assert isinstance(result, Drop)
    assert result.reason == "low_coverage"


def test_evidence_is_what_the_order_of_the_words_adds():
    lines = (LANTERNS, HARBOUR, SUMMER, HORSES)
    heard = [word for k, text in enumerate(lines) for word in hear(text, 2.0 * k)]
    assert measure_evidence(give(*lines), heard) > 0.6
    assert measure_evidence(give(*lines), heard[::-1]) < 0.15
    assert measure_evidence(give(OTHER_SONG), heard) < 0.15
    assert measure_evidence(give("la la la la la"), hear("la la la la la la la la", 0)) == pytest.approx(0.0)


SIX = (LANTERNS, HARBOUR, SUMMER, HORSES, "golden wheat under the thunder", "yellow boats beside a meadow")


def align_stamped(monkeypatch: pytest.MonkeyPatch, given_s: list[float]) -> Song:
    """A song of six lines, one of them not heard, whose file gives these times."""
    sung = [(text, 3.0 + 6.0 * k) for k, text in enumerate(SIX)]
    lyrics = "\n".join(f"[{int(t) // 60:02d}:{t % 60:05.2f}]{text}" for t, text in zip(given_s, SIX, strict=True))
    song = open_song(lyrics, [word for k, each in enumerate(sung) if k != 2 for word in hear(*each)])
    song.duration_s = 40.0
    assert align(monkeypatch, song, SungSong(*sung, duration_s=40.0)) is song
    assert [(line.text, line.start_s) for line in song.lines] == [(text, pytest.approx(at_s)) for text, at_s in sung]
    return song


@pytest.mark.parametrize(
    ("given_s", "offset_s", "drift"),
    [
        ([3.0 + 6 * k for k in range(6)], 0.0, 0.0),
        ([23.0 + 6 * k for k in range(6)], -20.0, 0.0),
        ([(3.0 + 6 * k) / 1.03 for k in range(6)], 0.52, 0.03),
    ],
)
def test_the_row_says_how_far_the_times_of_the_file_were_off(monkeypatch, given_s, offset_s, drift):
    song = align_stamped(monkeypatch, given_s)
    assert song.lyrics_offset_s == pytest.approx(offset_s, abs=0.02)
    assert song.lyrics_drift == pytest.approx(drift, abs=1e-3)
    assert song.metrics["lyrics_times_fit"] == 1.0
    assert song.warnings == []


def test_of_lines_with_one_time_the_first_is_evidence(monkeypatch):
    """Two voices, or a cue of two lines: the second is sung later, which is no fault of the file."""
    song = align_stamped(monkeypatch, [3.0, 3.0, 15.0, 15.0, 27.0, 27.0])
    assert song.lyrics_offset_s == pytest.approx(0.0, abs=0.02)
    assert song.metrics["lyrics_times_fit"] == 1.0


def test_nonsense_times_change_nothing_and_are_named(monkeypatch):
    song = align_stamped(monkeypatch, [1.0, 1.5, 2.0, 30.0, 31.0, 39.0])
    assert (song.lyrics_offset_s, song.lyrics_drift) == (None, None)
    assert ["times are of no use" in warning for warning in song.warnings] == [True]


def test_lines_that_their_times_put_into_another_order_are_read_as_written(monkeypatch):
    song = align_stamped(monkeypatch, [31.0, 5.0, 22.0, 1.0, 17.0, 9.0])
    assert (song.lyrics_offset_s, song.lyrics_drift) == (None, None)
    assert ["the order of their times is not the one" in warning for warning in song.warnings] == [True]


def test_without_times_nothing_is_said_of_them(monkeypatch):
    song = open_song(f"{LANTERNS}\n{HARBOUR}", [*hear(LANTERNS, 2), *hear(HARBOUR, 6)])
    assert align(monkeypatch, song, SungSong((LANTERNS, 2), (HARBOUR, 6))) is song
    assert (song.lyrics_offset_s, song.lyrics_drift, song.warnings) == (None, None, [])
    assert "lyrics_times_fit" not in song.metrics
