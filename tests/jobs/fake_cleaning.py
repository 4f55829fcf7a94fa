"""A cleaning run without Ray or models: the real run over a scripted stage, so that every fault can be tried."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import soundfile

from jobs import clean_lyrics
from jobs.cluster import Cluster, Crew
from jobs.run_options import RunOptions
from pipeline.cleaning.clean_song import CleanSettings
from pipeline.model_files.profiles import get_profile
from pipeline.song import Line, Section, Song, Word
from pipeline.stage import Stage

SETTINGS = CleanSettings(profile=get_profile("miniature"))


class SingOneLine(Stage):
    name, version = "sing_one_line", 1
    done: Counter[str] = Counter()
    fails: set[str] = set()

    def process(self, song: Song) -> Song:
        self.done[song.song_id] += 1
        if song.song_id in self.fails:
            raise RuntimeError("CUDA out of memory")
        song.lines = [Line(song.lyrics_text.strip(), 0.5, 1.0, "verse", 0.9, "lyrics", "kept")]
        song.words = [Word(song.lyrics_text.strip(), 0.5, 1.0, 0.9, 0)]
        song.sections = [Section("verse", 0.0, song.duration_s)]
        return song


def lay_out(folder: Path, patch: Callable[..., None]) -> Path:
    """Make songs a and b, one that is too short and one that is none, and let `clean` run without Ray and models."""

    def stream(self: Crew, rows: list, make_worker: Callable, *_: object) -> Iterator[dict]:
        worker = make_worker()
        yield from (worker(row) for row in rows)

    patch(clean_lyrics, "connect", lambda *_: Cluster(2, 0))
    patch(Crew, "stream", stream)
    patch(CleanSettings, "stages", lambda self, device: [SingOneLine()])
    folder.mkdir()
    random = np.random.default_rng(0)
    for name in "ab":
        soundfile.write(folder / f"{name}.wav", 0.1 * random.standard_normal(16_000), 8_000)
        (folder / f"{name}.txt").write_text(f"the song of {name}")
    soundfile.write(folder / "short.wav", np.ones(100), 8_000)
    (folder / "text.wav").write_text("no audio")
    return folder


def clean(raw: Path, out: Path) -> dict:
    SingOneLine.done.clear()
    return clean_lyrics.clean(raw, out, SETTINGS, RunOptions())


def results(out: Path) -> dict[str, bytes]:
    files = [out / "songs.parquet", out / "quarantine.parquet", *sorted((out / "lyrics").iterdir())]
    return {path.name: path.read_bytes() for path in files}
