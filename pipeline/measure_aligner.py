"""How well a CTC aligner places the words of songs with known word times: `python -m pipeline.measure_aligner`.

Every song is aligned as a whole, without windows or anchors: its true words in their order are all that is given. The
evidence of its own words and the highest of all other songs' words are printed beside the onset errors. Truth is a
folder of songs with truth.json, or one with annotations/words/*.csv, lyrics/*.words.txt and audio/ as JamendoLyrics.
"""

import argparse
import csv
import json
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.alignment.by_language import Aligner, Aligners, check_aligners
from pipeline.audio.decode import SPEECH_SAMPLE_RATE_HZ, decode_audio, resample, to_mono
from pipeline.lyrics.line_text import split_words
from pipeline.model_files.errors import ModelError

ACCOMPANIMENT_SHARE = 0.5  # as the profile miniature


@dataclass(frozen=True, slots=True)
class TrueSong:
    """A song with the onset of every word; a Chinese character is a word."""

    name: str
    language: str
    audio: Path
    words: list[str]
    onsets_s: NDArray[np.float64]


def read_truth(folder: Path, languages: Sequence[str]) -> Iterator[TrueSong]:
    """Read all songs with word times; `languages` are those of the CSV files, which do not name one, by file name."""
    for path in sorted(folder.glob("*/truth.json")):
        truth = json.loads(path.read_text(encoding="utf-8"))
        words, onsets = [], []
        for word in truth["words"]:
            parts = split_words(word["text"], truth["language"])
            words += parts
            onsets += list(np.linspace(word["start"], word["end"], len(parts), endpoint=False))
        if words:
            yield TrueSong(path.parent.name, truth["language"], path.parent / "mixture.flac", words, np.array(onsets))
    for path, language in zip(sorted(folder.glob("annotations/words/*.csv")), languages, strict=True):
        with path.open(encoding="utf-8", newline="") as stream:
            onsets = [float(row["word_start"]) for row in csv.DictReader(stream)]
        lines = (folder / "lyrics" / f"{path.stem}.words.txt").read_text(encoding="utf-8").splitlines()
        words = [line.strip() for line in lines if line.strip()]
        audio = next(file for file in (folder / "audio").iterdir() if _same_name(file.stem, path.stem))
        yield TrueSong(path.stem, language, audio, words, np.array(onsets))


def load_speech(song: TrueSong, vocals_folder: Path) -> NDArray[np.float32]:
    """Return what the aligner hears, 16 kHz mono [L]: the separated vocals with some accompaniment left in."""
    vocals_path = next(path for path in sorted(vocals_folder.iterdir()) if _same_name(path.stem, song.name))
    mix, vocals = decode_audio(song.audio), decode_audio(vocals_path)
    size = min(mix.samples.shape[1], vocals.samples.shape[1])
    blend = vocals.samples[:, :size] + ACCOMPANIMENT_SHARE * (mix.samples[:, :size] - vocals.samples[:, :size])
    return to_mono(resample(blend, mix.sample_rate, SPEECH_SAMPLE_RATE_HZ))


def measure(song: TrueSong, aligner: Aligner, speech: NDArray[np.float32], others: Sequence[TrueSong]) -> str:
    """Return one printed row."""
    sung = aligner.open_song(speech, song.language)
    timed = sung.align(0.0, len(speech) / SPEECH_SAMPLE_RATE_HZ, song.words)
    errors = np.abs(np.array([word.start_s for word in timed]) - song.onsets_s)
    evidence = sung.measure_evidence(song.words)
    highest = max((sung.measure_evidence(other.words) or 0.0 for other in others), default=0.0)
    return (
        f"{song.name[:32]:32} {len(errors):6d} {errors.mean():6.3f} {np.median(errors):6.3f} "
        f"{np.mean(errors <= 0.3):9.3f} {evidence:9.2f} {highest:15.2f}"
    )


def _same_name(stem: str, name: str) -> bool:
    """Whether a file is of a song: song folders become part of its name, accents may be composed or not."""
    return unicodedata.normalize("NFC", stem).startswith(unicodedata.normalize("NFC", name))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.measure_aligner", description=__doc__)
    parser.add_argument("truth", type=Path, help="folder of songs with word times")
    parser.add_argument("vocals", type=Path, help="vocals/ of a folder that jobs/clean_lyrics.py --keep-vocals made")
    parser.add_argument("--aligner", default="miniature", help="wav2vec2, miniature, a hub id or a local folder")
    parser.add_argument("--languages", default="", help="of the CSV files by file name, such as es,fr,de,fr")
    options = parser.parse_args(arguments)
    songs = list(read_truth(options.truth, options.languages.split(",") if options.languages else []))
    try:
        check_aligners(options.aligner, {song.language for song in songs})
    except ModelError as error:
        parser.error(str(error))
    aligners = Aligners(options.aligner)
    sys.stdout.write(f"{'song':32} {'words':>6} {'aae':>6} {'median':>6} {'within0.3':>9} evidence highest of others\n")
    for song in songs:
        aligner = aligners.for_language(song.language)
        if aligner is None:
            parser.error(f"{song.name}: {options.aligner} has no model for language {song.language!r}")
        others = [other for other in songs if other is not song]
        sys.stdout.write(measure(song, aligner, load_speech(song, options.vocals), others) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
