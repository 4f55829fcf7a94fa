"""Which songs there are: a folder tree of audio with lyrics beside it, or a manifest."""

import csv
import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipeline.audio import AUDIO_SUFFIXES

LYRICS_SUFFIXES = (".lrc", ".txt")
LYRICS_STEMS = ("lyrics", "lyric")
MAX_PATH_BYTES = 1_024  # file systems allow 255 a name; a path beyond this is a mistake
MANIFEST_SUFFIXES = (".jsonl", ".csv", ".parquet")
MANIFEST_COLUMNS = ("audio", "lyrics", "lyrics_path", "song_id", "language", "title", "artist")


class InputError(ValueError):
    """An input folder or manifest that cannot be used at all."""


@dataclass(frozen=True, slots=True)
class SongInput:
    """One song as found, unread: paths, what a manifest says, and what is wrong with it already."""

    song_id: str
    path: Path
    audio: str  # relative to the input folder
    lyrics_path: Path | None = None
    lyrics_text: str | None = None  # from a manifest
    language: str = ""
    title: str = ""
    artist: str = ""
    problem: str = ""  # why it goes to quarantine without a look at its content


def find_songs(source: Path) -> list[SongInput]:
    """Return all songs of a folder or a manifest, sorted by song_id.

    Raises:
        InputError: nothing there, no songs in it, or a manifest that cannot be read.
    """
    if source.suffix.lower() in MANIFEST_SUFFIXES and source.is_file():
        songs = list(_read_manifest(source))
    elif source.is_dir():
        songs = _scan_folder(source)
    elif source.exists():
        raise InputError(f"{source}: neither a folder nor a manifest ({', '.join(MANIFEST_SUFFIXES)})")
    else:
        raise InputError(f"{source}: no such folder or manifest; put audio there, or name another with --in")
    if not songs:
        raise InputError(f"{source}: no songs found; audio files end with {', '.join(sorted(AUDIO_SUFFIXES))}")
    return sorted(songs, key=lambda song: song.song_id)


def _scan_folder(root: Path) -> list[SongInput]:
    found: list[tuple[Path, list[str]]] = []
    visited: set[tuple[int, int]] = set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in visited:  # a link back to a folder above or beside: walk it once
            subfolders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        subfolders.sort()
        audio = sorted(name for name in names if Path(name).suffix.lower() in AUDIO_SUFFIXES)
        found += [(Path(folder) / name, names if len(audio) == 1 else []) for name in audio]
    names_of_songs = Counter(str(path.relative_to(root).with_suffix("")) for path, _ in found)
    names_of_songs.update(str(path.relative_to(root)) for path, _ in found)
    songs = []
    for path, folder_names in found:
        relative = path.relative_to(root)
        song_id = str(relative.with_suffix(""))
        if names_of_songs[song_id] > 1:  # a.mp3 beside a.flac, or beside a.mp3.wav: the suffix tells them apart
            song_id = str(relative)
        songs.append(_checked(SongInput(song_id, path, str(relative), _lyrics_beside(path, folder_names))))
    return songs


def _lyrics_beside(audio: Path, folder_names: list[str]) -> Path | None:
    """Return song.lrc or song.txt beside song.mp3, else lyrics.lrc or lyrics.txt where the folder holds one song."""
    for suffix in LYRICS_SUFFIXES:
        if (beside := audio.with_suffix(suffix)).is_file():
            return beside
    for name in sorted(folder_names):
        path = Path(name)
        if path.stem.lower() in LYRICS_STEMS and path.suffix.lower() in LYRICS_SUFFIXES:
            return audio.with_name(name)
    return None


def _checked(song: SongInput) -> SongInput:
    """Names that are not text in UTF-8 cannot be written to any output."""
    try:
        song.audio.encode()
    except UnicodeEncodeError:
        readable = song.audio.encode("utf-8", "backslashreplace").decode()
        return SongInput(readable, song.path, readable, problem="file name is not valid UTF-8")
    return song


def _read_manifest(path: Path) -> Iterator[SongInput]:
    seen: set[str] = set()
    root = path.parent.resolve()
    for number, row in enumerate(_manifest_rows(path), 1):
        where = f"{path}: row {number}"
        audio = row.get("audio")
        if not isinstance(audio, str) or not audio:
            raise InputError(f"{where}: no 'audio'; a manifest has the columns {', '.join(MANIFEST_COLUMNS)}")
        for name in MANIFEST_COLUMNS:
            if not isinstance(row.get(name), str | int | None):
                raise InputError(f"{where}: {name!r} is a {type(row[name]).__name__}, expected text")
            if isinstance(row.get(name), str):  # half an emoji cannot be written to any output
                row[name] = row[name].encode("utf-8", "replace").decode()
        target = _inside(root, audio, where)
        song_id = str(row.get("song_id") or Path(os.path.relpath(target, root)).with_suffix(""))
        if song_id in seen:
            raise InputError(f"{where}: song_id {song_id!r} stands there twice; every song needs its own")
        seen.add(song_id)
        lyrics = row.get("lyrics")
        lyrics_path = row.get("lyrics_path")
        yield SongInput(
            song_id,
            target,
            os.path.relpath(target, root),
            _inside(root, str(lyrics_path), where) if lyrics_path else (None if lyrics else _lyrics_beside(target, [])),
            str(lyrics) if lyrics else None,
            str(row.get("language") or ""),
            str(row.get("title") or ""),
            str(row.get("artist") or ""),
        )


def _inside(root: Path, name: str, where: str) -> Path:
    target = Path(os.path.normpath(root / name))
    if target == root or len(os.fsencode(name)) > MAX_PATH_BYTES or "\0" in name:
        raise InputError(f"{where}: {name[:80]!r} names no file")
    if not target.is_relative_to(root):
        raise InputError(
            f"{where}: {name!r} lies outside the manifest's folder {root}; move the manifest above its audio"
        )
    return target


def _manifest_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        if path.suffix.lower() == ".parquet":
            yield from pq.read_table(path).to_pylist()
        elif path.suffix.lower() == ".csv":
            with path.open(encoding="utf-8-sig", newline="") as stream:
                yield from csv.DictReader(stream)
        else:
            with path.open(encoding="utf-8-sig") as stream:
                for number, line in enumerate(stream, 1):
                    if line.strip():
                        row = json.loads(line)
                        if not isinstance(row, dict):
                            raise InputError(f"{path}: row {number} is {type(row).__name__}, expected an object")
                        yield row
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: cannot be read as a manifest: {error}") from error
