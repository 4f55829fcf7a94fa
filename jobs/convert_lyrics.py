"""Lyrics from one format to another: SongBloom, YuE, ACE-Step, DiffRhythm, SongGeneration, Muse, Suno, LRC, plain.

Text is read as cleaning reads it: credits, links, page furniture and translations are left out, repeats written out.
Cleaned songs (songs.parquet) bring their measured times and sections. Whatever the target cannot hold, and whatever
reading dropped, is named with a count and an example; nothing goes silently.
"""

import argparse
import json
import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.cluster import resolve_path
from jobs.command import EXIT_FINE, EXIT_SHORT, CommandParser, run_command
from pipeline.clean_folder import file_stem, write_text
from pipeline.inputs import InputError
from pipeline.lyric_formats.document import Changes, Document
from pipeline.lyric_formats.formats import FORMATS, Format, convert, guess_format
from pipeline.lyric_formats.reading import read_row
from pipeline.lyrics_encoding import LyricsError, read_lyrics
from pipeline.phonemes import Phonemizer
from pipeline.songbloom_format import validate

logger = logging.getLogger(__name__)

TEXT_SUFFIXES = (".txt", ".lrc", ".srt", ".vtt", ".jsonl", ".md")
ROWS = "songs"  # the name of songs.parquet among the formats to read
REPORT = "conversion.jsonl"
SONG_COLUMNS = ("song_id", "verdict", "lines", "words", "sections", "duration_s")


@dataclass(slots=True)
class Song:
    """One song on its way: where it came from, what was read, what is wrong with it."""

    name: str
    source: str
    source_format: str
    document: Document | None = None
    text: str = ""  # as found; what --check looks at
    changes: Changes = field(default_factory=Changes)
    failure: str = ""


def find_inputs(paths: Sequence[Path]) -> list[tuple[Path, str]]:
    """Return every lyrics file with the name that its output gets, folders searched, links to folders not followed."""
    found: list[tuple[Path, str]] = []
    for path in paths:
        if path.is_dir() and (path / "songs.parquet").is_file():
            found.append((path / "songs.parquet", ""))
        elif path.is_dir():
            for folder, folders, names in os.walk(path):
                folders.sort()
                files = [Path(folder, name) for name in sorted(names) if name.lower().endswith(TEXT_SUFFIXES)]
                found += [(file, file.relative_to(path).as_posix()) for file in files if file.name != REPORT]
        elif path.exists() or path.is_symlink():
            found.append((path, path.name))
        else:
            raise InputError(f"--in {path}: no such file or folder")
    if not found:
        raise InputError(f"--in: no lyrics found in {paths[0]}; looked for *{', *'.join(TEXT_SUFFIXES)}, songs.parquet")
    return found


def read_songs(path: Path, name: str, source_format: str) -> Iterator[Song]:
    """Read the songs of one file; a song that cannot be read comes with its failure."""
    if path.suffix == ".parquet":
        yield from read_rows(path)
        return
    stem = name[: -len(path.suffix)] if path.suffix else name
    song = Song(name=stem, source=str(path), source_format=source_format)
    try:
        song.text = read_lyrics(path)
        song.source_format = source_format or guess_format(song.text)
        if song.source_format == ROWS:
            raise LyricsError(f"{path}: --from songs reads songs.parquet, this is text")
        documents = FORMATS[song.source_format].read(song.text, song.changes)
    except LyricsError as error:
        song.failure = str(error) if str(path) in str(error) else f"{path}: {error}"
        yield song
        return
    for number, document in enumerate(documents, start=1):
        row_name = stem if len(documents) == 1 else f"{stem}-{number:05d}"
        yield Song(row_name, song.source, song.source_format, document, song.text, song.changes)
        song.changes = Changes()  # what the file as a whole lost is said once


def read_rows(path: Path) -> Iterator[Song]:
    """Read the kept songs of a songs.parquet."""
    try:
        table = pq.ParquetFile(path)
        missing = [column for column in SONG_COLUMNS if column not in table.schema_arrow.names]
        if missing:
            raise InputError(f"{path}: no column {missing[0]!r}; expected the songs.parquet of jobs/clean_lyrics.py")
        for batch in table.iter_batches(batch_size=64):
            for row in batch.to_pylist():
                if row["verdict"] == "keep":
                    yield Song(file_stem(row["song_id"]), f"{path}: {row['song_id']}", ROWS, read_row(row))
    except (pa.ArrowException, OSError, KeyError, TypeError) as error:
        raise InputError(f"{path}: cannot be read as songs.parquet ({error}); is the file whole?") from error


def check_song(song: Song, phonemizer: Phonemizer, target: Format) -> dict[str, Any]:
    """Return what is wrong with a song as SongBloom's format, and its symbols without a sound in the vocabulary."""
    is_songbloom = song.source_format.startswith("songbloom")
    text = song.text.strip() if is_songbloom else ""
    if not is_songbloom and song.document is not None:
        text = convert(song.document, target, song.changes, song.name).strip()
    phonemes = phonemizer.lyric_ids(text)
    return {
        "problems": validate(text),
        "unknown_symbols": dict(Counter(phonemes.unknown)),
        "num_ids": len(phonemes.ids),
    }


def convert_song(song: Song, target: Format, phonemizer: Phonemizer) -> tuple[str, dict[str, Any]]:
    """Return a song in the target format, and what to report of it."""
    if song.document is None:
        return "", {"failed": song.failure}
    try:
        text = convert(song.document, target, song.changes, song.name)
    except LyricsError as error:
        return "", {"failed": f"{song.source}: {error}"}
    facts: dict[str, Any] = {}
    if target.name.startswith("songbloom"):
        facts["unknown_symbols"] = dict(Counter(phonemizer.lyric_ids(text.strip()).unknown))
    return text, facts


class Output:
    """Where converted songs go: one file, or a folder with a file per song and a report."""

    def __init__(self, out: Path, target: Format, is_single: bool) -> None:
        """Decide between file and folder: a name with a suffix is a file."""
        self.is_file = bool(out.suffix) and not out.is_dir()
        if self.is_file and not is_single and target.suffix != ".jsonl":
            raise InputError(f"--out {out}: many songs do not fit one {target.name} file; name a folder")
        self.out, self._target = out, target
        self._rows: list[str] = []
        self._taken: set[str] = set()

    def place(self, song: Song, text: str) -> Path:
        """Write one song and return its path; songs of equal names get numbers."""
        if self.is_file:
            self._rows.append(text)
            write_text(self._prepare(self.out), "".join(self._rows))
            return self.out
        name, count = song.name, 1
        while name.casefold() in self._taken:
            count += 1
            name = f"{song.name}-{count}"
        self._taken.add(name.casefold())
        path = self.out / f"{name}{self._target.suffix}"
        if str(path.resolve()) == str(Path(song.source).resolve()):
            raise InputError(f"--out {self.out}: {path.name} would replace its own source; name another folder")
        write_text(self._prepare(path), text)
        return path

    @staticmethod
    def _prepare(path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def describe(report: dict[str, Any]) -> str:
    """Return one line for people about what one song lost."""
    losses = [f"{loss['what']} x{loss['count']} ({loss['example']})" for loss in report["changes"]]
    unknown = report.get("unknown_symbols")
    losses += [f"no sound in the vocabulary: {' '.join(unknown)}"] if unknown else []
    losses += report.get("problems", [])
    return "; ".join(losses) if losses else "nothing lost"


def run(arguments: argparse.Namespace) -> tuple[dict[str, Any], int]:
    """Convert or check all inputs and return the totals."""
    inputs = find_inputs([resolve_path(path) for path in arguments.source])
    target = FORMATS[arguments.target or "songbloom"]
    songs = [song for path, name in inputs for song in read_songs(path, name, arguments.source_format or "")]
    is_single = len(songs) == 1
    if is_single and songs[0].failure:
        raise LyricsError(songs[0].failure)
    output = None if arguments.check else Output(resolve_path(arguments.out), target, is_single)
    phonemizer = Phonemizer("plain")
    reports = []
    for song in songs:
        report: dict[str, Any] = {"source": song.source, "from": song.source_format}
        if output is None:
            report |= {"failed": song.failure} if song.failure else _checked(song, phonemizer, target)
        else:
            text, facts = convert_song(song, target, phonemizer)
            report |= facts | ({} if "failed" in facts else {"out": str(output.place(song, text)), "to": target.name})
        report["changes"] = song.changes.listed()
        guessed = "" if arguments.source_format or song.source_format == ROWS else ", guessed"
        logger.info("%s (%s%s): %s", song.name, song.source_format, guessed, report.get("failed") or describe(report))
        reports.append(report)
    if output is not None and not output.is_file:
        write_text(output.out / REPORT, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in reports))
    return summarise(reports)


def _checked(song: Song, phonemizer: Phonemizer, target: Format) -> dict[str, Any]:
    try:
        return check_song(song, phonemizer, target)
    except LyricsError as error:
        return {"failed": f"{song.source}: {error}"}


def summarise(reports: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], int]:
    """Return the totals over all songs, and 1 as exit code where one failed or has problems."""
    losses: Counter[str] = Counter()
    unknown: Counter[str] = Counter()
    for report in reports:
        losses.update({loss["what"]: loss["count"] for loss in report["changes"]})
        unknown.update(report.get("unknown_symbols", {}))
    failed = [report["failed"] for report in reports if report.get("failed")]
    faulty = sum(bool(report.get("problems")) for report in reports)
    totals = {
        "songs": len(reports),
        "from": dict(Counter(report["from"] for report in reports)),
        "written": sum("out" in report for report in reports),
        "failed": len(failed),
        "faulty": faulty,
        "changes": dict(losses),
        "unknown_symbols": dict(unknown.most_common(100)),
        "first_failure": failed[0] if failed else None,
    }
    return totals, EXIT_SHORT if failed or faulty else EXIT_FINE


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    formats = "\n".join(f"  {form.name:15} {form.about}" for form in FORMATS.values())
    parser = CommandParser(
        prog="convert_lyrics.py",
        description=__doc__,
        epilog=f"formats:\n{formats}\n  {ROWS:15} songs.parquet of jobs/clean_lyrics.py, kept songs (to read only)\n\n"
        "examples:\n"
        "  python jobs/convert_lyrics.py --in song.lrc --to songbloom --out song.txt\n"
        "  python jobs/convert_lyrics.py --in clean/ --to diffrhythm --out lrc/          # measured times\n"
        "  python jobs/convert_lyrics.py --in clean/ --to muse --out songs.jsonl         # all songs in one file\n"
        "  python jobs/convert_lyrics.py --in lyrics/ --from suno --to ace-step\n"
        "  python jobs/convert_lyrics.py --in song.txt --check                           # faults, missing symbols\n",
    )
    parser.add_argument(
        "--in", dest="source", type=Path, nargs="+", required=True, metavar="PATH",
        help="files, folders of files, or the folder of cleaned songs",
    )  # fmt: skip
    parser.add_argument(
        "--from", dest="source_format", choices=[*FORMATS, ROWS], metavar="FORMAT",
        help="format of the input (default: guessed from each text, and said)",
    )  # fmt: skip
    parser.add_argument("--to", dest="target", choices=list(FORMATS), metavar="FORMAT", help="format to write")
    parser.add_argument(
        "--out", type=Path, default=Path("converted"), help="folder, or a file for one song (.jsonl: also for many); "
        f"a folder also gets {REPORT}, a row per song with all that changed (default: converted/)"
    )  # fmt: skip
    parser.add_argument(
        "--check", action="store_true", help="write nothing: list the faults of lyrics in SongBloom's format, and the "
        "symbols that its vocabulary has no sound for; other formats are converted to it first"
    )  # fmt: skip
    arguments = parser.parse_args()
    if not arguments.check and arguments.target is None:
        parser.error("--to is needed: one of " + ", ".join(FORMATS) + "; or --check")
    return arguments


if __name__ == "__main__":
    run_command(lambda: run(parse_arguments()))
