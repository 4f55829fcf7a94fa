"""Files and folders of lyrics, and tables of cleaned songs, song by song."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.input_file import InputError
from pipeline.lyric_formats.document import Changes, Document
from pipeline.lyric_formats.formats import FORMATS, guess_format
from pipeline.lyric_formats.reading import read_row
from pipeline.lyric_formats.songbloom import validate
from pipeline.lyrics.encoding import LyricsError, read_lyrics
from pipeline.song import file_stem

TEXT_SUFFIXES = (
    *(".txt", ".lrc", ".lrcx", ".elrc", ".qrc", ".yrc", ".srt", ".vtt", ".sbv", ".smi", ".ass", ".ssa", ".ttml"),
    *(".jsonl", ".md"),
)
ROWS = "songs"  # the name of songs.parquet among the formats to read
SONG_COLUMNS = ("song_id", "verdict", "reason", "lines", "words", "sections", "duration_s")
REPORT_NAME = "conversion.jsonl"  # what a conversion leaves in its folder is no input


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
    rejected: str = ""  # why cleaning rejected it


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
                found += [(file, file.relative_to(path).as_posix()) for file in files if file.name != REPORT_NAME]
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
        if source_format not in ("", ROWS):
            raise InputError(f"--from {source_format}: {path.name} is a table; leave --from out, or say --from {ROWS}")
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
        for problem in validate(song.text.strip()) if song.source_format.startswith("songbloom") else ():
            song.changes.add("fault of the input", problem)
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
                song = Song(file_stem(row["song_id"]), f"{path}: {row['song_id']}", ROWS)
                if row["verdict"] == "keep":
                    song.document = read_row(row)
                else:
                    song.rejected = f"rejected: {row['reason']}"
                yield song
    except InputError:
        raise
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:  # ValueError: text that is not UTF-8
        raise InputError(f"{path}: cannot be read as songs.parquet ({error}); is the file whole?") from error
