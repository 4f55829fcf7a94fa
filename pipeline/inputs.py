"""Which songs there are: a folder tree of audio with lyrics beside it, or a manifest."""

import logging
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from pipeline.audio import AUDIO_SUFFIXES
from pipeline.language_names import UnknownLanguageError, language_code
from pipeline.manifest import MANIFEST_SUFFIXES as MANIFEST_SUFFIXES
from pipeline.manifest import ManifestRow, read_manifest
from pipeline.manifest_columns import MANIFEST_COLUMNS as MANIFEST_COLUMNS
from pipeline.manifest_columns import InputError as InputError

logger = logging.getLogger(__name__)

LYRICS_SUFFIXES = (".lrc", ".txt")
LYRICS_STEMS = ("lyrics", "lyric")
MAX_PATH_BYTES = 1_024  # file systems allow 255 a name; a path beyond this is a mistake
_ADDRESS = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://")
_WINDOWS_ROOT = re.compile(r"[a-zA-Z]:[\\/]|\\\\")


@dataclass(frozen=True, slots=True)
class SongInput:
    """One song as found, unread: paths, what a manifest says, and what is wrong with it already."""

    song_id: str
    path: Path
    audio: str  # relative to the input folder
    lyrics_path: Path | None = None
    lyrics_text: str | None = None  # from a manifest
    language: str = ""  # ISO 639-1
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
    passed_over: Counter[str] = Counter()
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
        passed_over.update(Path(name).suffix.lower() or "no suffix" for name in names)
    for suffix in (*AUDIO_SUFFIXES, *LYRICS_SUFFIXES):
        del passed_over[suffix]
    if passed_over:
        counts = ", ".join(f"{count} {suffix}" for suffix, count in passed_over.most_common(20))
        logger.info("%s: passed over, neither audio nor lyrics by their names: %s", root, counts)
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
    root = path.parent.resolve()
    seen: dict[str, str] = {}
    for row in read_manifest(path):
        song = _song_of_row(root, row)
        if earlier := seen.get(song.song_id):
            first = earlier.removeprefix(f"{path}: ")
            raise InputError(
                f"{row.where}: song_id {song.song_id[:80]!r} stands there twice, first in {first}; every song needs "
                "its own"
            )
        seen[song.song_id] = row.where
        yield song


def _song_of_row(root: Path, row: ManifestRow) -> SongInput:
    values = row.values
    target = _inside(root, values["audio"], row.where)
    lyrics, lyrics_path = values.get("lyrics"), None
    if "lyrics_path" in values:
        lyrics_path = _inside(root, values["lyrics_path"], row.where)
    elif lyrics is None and not row.problem:
        lyrics_path = _lyrics_beside(target, [])
    try:
        language = language_code(values.get("language", ""))
    except UnknownLanguageError as error:
        raise InputError(f"{row.where}: {error}") from error
    audio = os.path.relpath(target, root)
    return SongInput(
        song_id=values.get("song_id") or str(Path(audio).with_suffix("")),
        path=target,
        audio=audio,
        lyrics_path=lyrics_path,
        lyrics_text=lyrics,
        language=language,
        title=values.get("title", ""),
        artist=values.get("artist", ""),
        problem=row.problem,
    )


def _inside(root: Path, name: str, where: str) -> Path:
    """Return the file that a manifest names: relative to its folder, absolute within it, or as a file:// address."""
    local = _local_name(root, name, where)
    target = Path(os.path.normpath(root / local))
    if target == root or len(os.fsencode(name)) > MAX_PATH_BYTES or "\0" in name:
        raise InputError(f"{where}: {name[:80]!r} names no file")
    if not target.is_relative_to(root) and os.path.isabs(local):  # the same folder by another name
        target = Path(os.path.realpath(target.parent)) / target.name
    if not target.is_relative_to(root):
        raise InputError(
            f"{where}: {name!r} lies outside the manifest's folder {root}; move the manifest above its audio"
        )
    return target


def _local_name(root: Path, name: str, where: str) -> str:
    """Return a name as this system writes it."""
    if _ADDRESS.match(name):
        scheme, _, rest = name.partition("://")
        host, slash, local = rest.partition("/")
        if scheme.lower() == "file" and host.lower() in ("", "localhost"):
            return slash + unquote(local)
        raise InputError(f"{where}: {name[:80]!r} is an address; download the file and name it")
    if "\\" not in name and name[1:2] != ":" or os.path.lexists(root / name):
        return name
    if _WINDOWS_ROOT.match(name):
        raise InputError(f"{where}: {name[:80]!r} is a path of Windows; write it relative to the manifest's folder")
    return name.replace("\\", "/")
