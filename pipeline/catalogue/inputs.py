"""Which songs there are: a folder tree of audio with lyrics beside it, or a manifest."""

import logging
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from pipeline.audio.decode import AUDIO_SUFFIXES
from pipeline.catalogue.manifest import MANIFEST_SUFFIXES as MANIFEST_SUFFIXES
from pipeline.catalogue.manifest import ManifestRow, read_manifest
from pipeline.catalogue.manifest_columns import MANIFEST_COLUMNS as MANIFEST_COLUMNS
from pipeline.catalogue.pair_lyrics import LYRICS_SUFFIXES as LYRICS_SUFFIXES
from pipeline.catalogue.pair_lyrics import (
    LyricsFolder,
    Pairing,
    is_audio,
    is_leftover,
    loose_key,
    near_hint,
    printable,
)
from pipeline.input_file import InputError as InputError
from pipeline.lyrics.language_names import UnknownLanguageError, language_code

RECORDS = ".records"  # one JSON file per finished song: what resume looks at
LOCK = f"{RECORDS}/lock"  # marks a folder that cleaning has written; held while a run writes to it


logger = logging.getLogger(__name__)

MIN_HINT_CHARS = 3  # of a name found in another folder; "01.txt" is anybody's
MAX_SUFFIX_CHARS = 16  # a longer one is a part of the name
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
    hint: str = ""  # where there are no lyrics: what seems to be some, and what to do with it


@dataclass(frozen=True, slots=True)
class Scan:
    """All songs of an input, and how many files are none, by suffix and reason.

    In a folder every file counts once: as the audio of a song, as the lyrics of one or more, or as passed over. Folders
    that cleaning wrote are not looked into.
    """

    songs: list[SongInput]  # sorted by song_id
    passed_over: dict[str, int]  # ".pdf: not audio or lyrics"; most files first; empty for a manifest


def find_songs(source: Path) -> list[SongInput]:
    """Return all songs of a folder or a manifest, sorted by song_id; raises as `scan`."""
    return scan(source).songs


def scan(source: Path) -> Scan:
    """Return all songs of a folder or a manifest, and what was passed over.

    Raises:
        InputError: nothing there, no songs in it, a manifest that cannot be read, or a folder that cleaning wrote.
    """
    passed_over: Counter[str] = Counter()
    if source.suffix.lower() in MANIFEST_SUFFIXES and source.is_file():
        songs = list(_read_manifest(source))
    elif source.is_dir():
        songs = _scan_folder(source, passed_over)
    elif source.exists():
        raise InputError(f"{source}: neither a folder nor a manifest ({', '.join(MANIFEST_SUFFIXES)})")
    else:
        raise InputError(f"{source}: no such folder or manifest; put audio there, or name another with --in")
    counts = dict(sorted(passed_over.items(), key=lambda entry: (-entry[1], entry[0])))
    if not songs:
        found = f" (passed over: {_list_counts(counts)})" if counts else ""
        raise InputError(f"{source}: no songs found{found}; audio files end with {', '.join(sorted(AUDIO_SUFFIXES))}")
    if counts:
        logger.info("%s: passed over: %s", source, _list_counts(counts))
    return Scan(sorted(songs, key=lambda song: song.song_id), counts)


def _list_counts(counts: dict[str, int]) -> str:
    listed = [f"{count} {what}" for what, count in counts.items()]
    return "; ".join(listed[:20]) + (f"; and {len(listed) - 20} more kinds" if len(listed) > 20 else "")


def _count(passed_over: Counter[str], name: str, reason: str) -> None:
    suffix = printable(Path(name).suffix.lower())
    passed_over[f"{suffix if 0 < len(suffix) <= MAX_SUFFIX_CHARS else 'no suffix'}: {reason}"] += 1


def _scan_folder(root: Path, passed_over: Counter[str]) -> list[SongInput]:
    found: list[tuple[Path, Pairing]] = []
    unused: dict[str, list[Path]] = {}  # lyrics that no song has, by their loose key
    if os.path.lexists(root / LOCK):
        raise InputError(f"{root}: cleaning wrote this folder; name the one with the audio that it read with --in")
    for folder, names in _walk(root, passed_over):
        audio = sorted(filter(is_audio, names))
        lyrics = LyricsFolder(folder, names)
        found += [(folder / name, lyrics.pair(name, is_only_song=len(audio) == 1)) for name in audio]
        for name in names:
            if not is_audio(name) and Path(name).suffix.lower() not in LYRICS_SUFFIXES:
                _count(passed_over, name, "not audio or lyrics")
        for name, reason in lyrics.passed_over():
            _count(passed_over, name, reason)
            key = loose_key(Path(name).stem)
            if len(key) >= MIN_HINT_CHARS and not key.isdecimal():
                unused.setdefault(key, []).append((folder / name).relative_to(root))
    names_of_songs = Counter(str(path.relative_to(root).with_suffix("")) for path, _ in found)
    names_of_songs.update(str(path.relative_to(root)) for path, _ in found)
    songs = []
    for path, pairing in found:
        relative = path.relative_to(root)
        song_id = str(relative.with_suffix(""))
        if names_of_songs[song_id] > 1:  # a.mp3 beside a.flac, or beside a.mp3.wav: the suffix tells them apart
            song_id = str(relative)
        hint = pairing.hint
        if pairing.path is None and not hint and (elsewhere := unused.get(loose_key(path.stem))):
            hint = near_hint([str(name) for name in elsewhere], path.stem)
        songs.append(
            _checked(SongInput(song_id, path, str(relative), pairing.path, language=pairing.language, hint=hint))
        )
    return songs


def _walk(root: Path, passed_over: Counter[str]) -> Iterator[tuple[Path, list[str]]]:
    """Yield every folder once with the names of its files, without what file systems and cleaning left there."""
    visited: set[tuple[int, int]] = set()
    for folder, subfolders, names in os.walk(root, followlinks=True, onerror=_warn_unlisted):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in visited:  # a link back to a folder above or beside: walk it once
            subfolders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        here = Path(folder)
        for name in [name for name in subfolders if is_leftover(name, is_folder=True)]:
            subfolders.remove(name)
            for _, _, left in os.walk(here / name):
                for leftover in left:
                    _count(passed_over, leftover, "left behind by a file system")
        for name in [name for name in subfolders if os.path.lexists(here / name / LOCK)]:
            subfolders.remove(name)
            logger.info("%s: not read, cleaning wrote it", here / name)
        subfolders.sort()
        kept = []
        for name in names:
            if is_leftover(name):
                _count(passed_over, name, "left behind by a file system")
            else:
                kept.append(name)
        yield here, kept


def _warn_unlisted(error: OSError) -> None:
    logger.warning("%s: cannot be listed (%s); its songs are missing", error.filename, error.strerror)


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
    folders: dict[Path, LyricsFolder] = {}
    for row in read_manifest(path):
        song = _song_of_row(root, row, folders)
        if earlier := seen.get(song.song_id):
            first = earlier.removeprefix(f"{path}: ")
            raise InputError(
                f"{row.where}: song_id {song.song_id[:80]!r} stands there twice, first in {first}; every song needs "
                "its own"
            )
        seen[song.song_id] = row.where
        yield song


def _song_of_row(root: Path, row: ManifestRow, folders: dict[Path, LyricsFolder]) -> SongInput:
    values = row.values
    target = _inside(root, values["audio"], row.where)
    lyrics, pairing = values.get("lyrics"), Pairing()
    try:
        language = language_code(values.get("language", ""))
    except UnknownLanguageError as error:
        raise InputError(f"{row.where}: {error}") from error
    if "lyrics_path" in values:
        pairing = Pairing(_inside(root, values["lyrics_path"], row.where))
    elif lyrics is None and not row.problem:
        if target.parent not in folders:
            folders[target.parent] = LyricsFolder(target.parent, _list_files(target.parent))
        pairing = folders[target.parent].pair(target.name, is_only_song=False, language=language)
    audio = os.path.relpath(target, root)
    return SongInput(
        song_id=values.get("song_id") or str(Path(audio).with_suffix("")),
        path=target,
        audio=audio,
        lyrics_path=pairing.path,
        lyrics_text=lyrics,
        language=language or pairing.language,
        title=values.get("title", ""),
        artist=values.get("artist", ""),
        problem=row.problem,
        hint=pairing.hint,
    )


def _list_files(folder: Path) -> list[str]:
    """Return the names in a folder that may be files, none where it cannot be listed: its audio says so later."""
    try:
        return [name for name in os.listdir(folder) if not is_leftover(name)]
    except OSError:
        return []


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
