from pathlib import Path

import numpy as np

from pipeline.align_lyrics import AlignLyrics
from pipeline.song import Drop, Song, Transcript


def test_headers_reach_the_stage_that_labels_sections():
    song = Song(song_id="a", path=Path("a.wav"), audio="a.wav", lyrics_text="[Verse]\n\n[Guitar Solo]\n")
    song.voice = np.zeros(16_000, np.float32)
    song.transcript = Transcript([], "en", 0.0)
    result = AlignLyrics(AlignLyrics.Config(model_name="unused")).process(song)
    assert isinstance(result, Drop)
    assert result.reason == "no_lyrics"
    assert song.header_labels == ["verse", "inst"]
