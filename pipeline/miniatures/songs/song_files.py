"""A synthetic song as a folder: mixture.opus, lyrics.txt, truth.json and noise.json."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.miniatures.songs.bad_lyrics import NoisyLine
from pipeline.miniatures.songs.instruments import SAMPLE_RATE
from pipeline.miniatures.songs.songs import SyntheticSong

OPUS_BITS_PER_S = 96_000


def write_opus(path: Path, audio: NDArray[np.float32]) -> None:
    """Write [2, L] at 48 kHz as Ogg Opus; the same audio gives the same bytes with the same FFmpeg."""
    import av

    with av.open(str(path), "w", format="ogg", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libopus", rate=SAMPLE_RATE, layout="stereo")
        stream.bit_rate = OPUS_BITS_PER_S
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(audio.T.reshape(1, -1)), format="flt", layout="stereo")
        frame.sample_rate = SAMPLE_RATE
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)


def describe_truth(song: SyntheticSong, name: str) -> dict[str, Any]:
    """Return what is true of a song: sections, lines and words with their times in seconds."""
    return {
        "id": name,
        "language": song.language,
        "sample_rate": SAMPLE_RATE,
        "duration": round(song.duration_s, 4),
        "bpm": song.spec.bpm,
        "key": song.key,
        "style": song.spec.style,
        "singer": song.spec.singer.name,
        "seed": song.spec.seed,
        "vocal_db": song.spec.vocal_db,
        "instrumental": not song.lines,
        "sections": song.sections,
        "lines": song.lines,
        "words": song.words,
    }


def write_song(folder: Path, song: SyntheticSong, lines: list[NoisyLine], *, mode: str, expected: str) -> None:
    """Write a song and its bad lyrics.

    Args:
        folder: made if needed; its name is the song's id.
        song: the song.
        lines: the lyrics as a user would have them.
        mode: what was done to them, in one word.
        expected: `repair`, `accept_unchanged` or `reject`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_opus(folder / "mixture.opus", song.mix)
    (folder / "lyrics.txt").write_text("\n".join(line.text for line in lines) + "\n", encoding="utf-8")
    kept = {line.truth_line for line in lines} | {k for line in lines for k in line.expands_to}
    noise = {
        "id": folder.name,
        "mode": mode,
        "expected": expected,
        "kinds_present": sorted({kind for line in lines for kind in line.kinds}),
        "missing": [k for k in range(len(song.lines)) if k not in kept],
        "lines": [{"index": k} | asdict(line) for k, line in enumerate(lines)],
    }
    for name, content in (("truth.json", describe_truth(song, folder.name)), ("noise.json", noise)):
        (folder / name).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
