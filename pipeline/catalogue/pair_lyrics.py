"""Which lyrics file of a folder belongs to which audio file, by their names, and what to say where none does."""

import os
import re
import stat
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.audio.file import AUDIO_SUFFIXES
from pipeline.input_file import InputFileError, open_regular
from pipeline.lyrics.language_names import UnknownLanguageError, language_code
from pipeline.lyrics.packed import QRC_MARK

# In order of preference: times of words, times of lines, none. Beside audio, .json and .tsv are as often a shop's or
# player's notes as a transcript: they come last, and only under the very name of the audio.
LYRICS_SUFFIXES = tuple(".ttml .lrcx .elrc .yrc .qrc .krc .lrc .ass .ssa .srt .vtt .sbv .smi .txt .json .tsv".split())
SAME_NAME_ONLY = frozenset({".json", ".tsv"})
LYRICS_STEMS = ("lyrics", "lyric")  # of a folder that holds one song

_RANKS = {suffix: rank for rank, suffix in enumerate(LYRICS_SUFFIXES)}
# song.en, song.pt-BR, song_en, song [English], song (de). Names of more than one word are none: "(English version)" is
# another song.
_LANGUAGE_TAGS = tuple(
    re.compile(rf"(?P<stem>.*[^\s._-]){tag}")
    for tag in (
        r"[._-](?P<code>[a-zA-Z]{2,3})",
        r"[._-](?P<code>[a-zA-Z]{2,3}[-_][a-zA-Z0-9]{2,8})",
        r"[._-](?P<code>[a-zA-Z]{2,3}[-_][a-zA-Z]{4}[-_][a-zA-Z0-9]{2,3})",
        r"[\s._-]*[\[(](?P<code>\w[\w-]{1,19})[\])]",
    )
)
_FILLERS = frozenset(
    "lyrics lyric text words of for the by official letra letras songtext paroles testo текст 歌词 歌詞 가사".split()
)
_NO_LYRICS = frozenset({"readme", "license", "licence", "info", "notes", "requirements", "tracklist", "playlist"})
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_WORD = re.compile(r"[^\W_]+")
_MAX_BLANK_BYTES = 256  # a larger file is taken to say something
_REMEDY = "or name it in a manifest's lyrics_path"

# What file systems, players and archives leave behind, in lower case.
_LEFTOVER_FOLDERS = frozenset(
    {
        *("__macosx", ".appledouble", ".trash", ".trashes", ".spotlight-v100", ".fseventsd", ".temporaryitems"),
        *(".documentrevisions-v100", "@eadir", "#recycle", "@recycle", "#snapshot", "@recently-snapshot"),
        *("$recycle.bin", "recycler", "system volume information", "lost+found", ".thumbnails"),
    }
)
_LEFTOVER_FILES = frozenset({".ds_store", "thumbs.db", "ehthumbs.db", "desktop.ini", ".directory", "icon\r"})
_LEFTOVER_PREFIXES = ("._", "~$", ".nfs", ".fuse_hidden", ".trash-")


def is_leftover(name: str, *, is_folder: bool = False) -> bool:
    """Whether a file or folder of this name was left behind by a file system and is nobody's input."""
    lower = name.lower()
    return lower in (_LEFTOVER_FOLDERS if is_folder else _LEFTOVER_FILES) or lower.startswith(_LEFTOVER_PREFIXES)


def is_audio(name: str) -> bool:
    """Whether a file is taken for audio by its suffix."""
    return Path(name).suffix.lower() in AUDIO_SUFFIXES


def fold(name: str) -> str:
    """Return a name as it is compared: composed (NFC), without case."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def printable(name: str) -> str:
    """Return a file name that can be written to any output, in one line."""
    return _CONTROL.sub("?", name.encode("utf-8", "backslashreplace").decode())


def split_language(stem: str) -> list[tuple[str, str]]:
    """Return all readings of a stem as one with a language tag: the rest, and the ISO 639-1 code of the tag.

    The longest rest comes first: "song.pt-BR" is "song.pt" in Breton or "song" in Portuguese.
    """
    readings = []
    for pattern in _LANGUAGE_TAGS:
        if tag := pattern.fullmatch(stem):
            try:
                readings.append((tag["stem"], language_code(tag["code"])))
            except UnknownLanguageError:
                continue
    return [(rest, code) for rest, code in readings if code]


def loose_key(stem: str) -> str:
    """Return what is left of a stem without track number, signs and words such as "lyrics": for hints alone."""
    words = _WORD.findall(fold(stem))
    while len(words) > 1 and words[0].isdecimal():
        del words[0]
    return "".join(word for word in words if word not in _FILLERS)


@dataclass(frozen=True, slots=True)
class Pairing:
    """The lyrics file of an audio file and the language that its name says; or a hint, where lyrics seem to be near."""

    path: Path | None = None
    language: str = ""  # ISO 639-1
    hint: str = ""  # one line for a person, "" where there is nothing to say


@dataclass(frozen=True, slots=True)
class _Candidate:
    name: str
    stem: str  # without language tag
    rank: int
    language: str


class LyricsFolder:
    """The lyrics files of one folder."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        """Take the names of all files in a folder, without leftovers."""
        self._folder = folder
        self._audio: dict[str, set[str]] = defaultdict(set)  # stems and whole names by their folded form
        for name in filter(is_audio, names):
            for spelling in (Path(name).stem, name):
                self._audio[fold(spelling)].add(spelling)
        self._named: dict[str, list[_Candidate]] = defaultdict(list)
        self._loose: dict[str, list[str]] = defaultdict(list)
        self._faults: dict[str, str] = {}  # why a file cannot be lyrics, "" where it can be
        self._reasons: dict[str, str] = {}  # why a file that could have been taken was not
        self._used: set[str] = set()
        self._names = sorted(name for name in names if Path(name).suffix.lower() in _RANKS)
        for name in self._names:
            self._add(name)

    def _add(self, name: str) -> None:
        path = Path(name)
        stem, suffix, language = path.stem, path.suffix.lower(), ""
        if suffix not in SAME_NAME_ONLY:
            self._loose[loose_key(stem)].append(name)
            if fold(stem) not in self._audio:
                readings = ((rest, code) for rest, code in split_language(stem) if self._is_known(rest))
                stem, language = next(readings, (stem, ""))
        self._named[fold(stem)].append(_Candidate(name, stem, _RANKS[suffix], language))

    def _is_known(self, stem: str) -> bool:
        return fold(stem) in self._audio or fold(stem) in LYRICS_STEMS

    def pair(self, audio: str, *, is_only_song: bool, language: str = "") -> Pairing:
        """Return the lyrics of an audio file.

        They have its name without its suffix (song.lrc, song.mp3.lrc), or are called lyrics where the folder holds one
        song. Without a language tag comes before with one, then the order of `LYRICS_SUFFIXES` decides. Empty files
        are none. Several languages without an untagged file are none either: which one is sung is not known.

        Args:
            audio: name of the file in this folder.
            is_only_song: the folder holds no other audio.
            language: ISO 639-1, where it is known already: lyrics whose tag says another are a translation.
        """
        stem = Path(audio).stem
        candidates = [*self._spelt(stem), *self._spelt(audio)]
        if is_only_song and not any(self._is_usable(found) for found in candidates):
            general = (found for name in LYRICS_STEMS for found in self._named.get(name, ()))
            candidates += [found for found in general if Path(found.name).suffix.lower() not in SAME_NAME_ONLY]
        fitting = [found for found in candidates if not (language and found.language) or found.language == language]
        for found in candidates:
            if found not in fitting:
                self._reasons[found.name] = f"another language than the song's ({language})"
        usable = sorted(filter(self._is_usable, fitting), key=lambda found: (found.language != "", found.rank))
        if not usable:
            return Pairing(hint=self._hint(audio, candidates, is_only_song=is_only_song))
        best = usable[0]
        if best.language and len({found.language for found in usable}) > 1:
            for found in usable:
                self._reasons[found.name] = "several languages, and which is sung is not known"
            names = _list_names([found.name for found in usable])
            name = printable(stem) + Path(best.name).suffix
            return Pairing(hint=f"{names}: which language is sung is not known; call that file {name}, {_REMEDY}")
        for found in usable[1:]:
            self._reasons.setdefault(found.name, "other lyrics of the song are preferred")
        self._used.add(best.name)
        return Pairing(self._folder / best.name, best.language)

    def passed_over(self) -> Iterator[tuple[str, str]]:
        """Yield the name of every lyrics file that no song has taken so far, with the reason."""
        for name in self._names:
            if name not in self._used:
                yield name, self._why_not(name)

    def _why_not(self, name: str) -> str:
        otherwise = "not audio or lyrics" if Path(name).suffix.lower() in SAME_NAME_ONLY else "no song of this name"
        return self._faults.get(name) or self._reasons.get(name, otherwise)

    def _spelt(self, spelling: str) -> list[_Candidate]:
        """Return what has this name, folded; what is spelt as another audio file to the letter belongs to that one."""
        key = fold(spelling)
        others = self._audio.get(key, set()) - {spelling}
        return [found for found in self._named.get(key, ()) if found.stem not in others]

    def _is_usable(self, found: _Candidate) -> bool:
        if found.name not in self._faults:
            self._faults[found.name] = _look_at(self._folder / found.name)
        return not self._faults[found.name]

    def _hint(self, audio: str, candidates: Sequence[_Candidate], *, is_only_song: bool) -> str:
        stem = Path(audio).stem
        if candidates:
            return "; ".join(f"{printable(found.name)}: {self._why_not(found.name)}" for found in candidates[:3])
        key = loose_key(stem)
        near = self._loose.get(key, []) if key else []
        if is_only_song and not near:
            texts = (name for name in self._names if Path(name).suffix.lower() not in SAME_NAME_ONLY)
            near = [name for name in texts if fold(Path(name).stem) not in _NO_LYRICS]
        near = [name for name in near if fold(Path(name).stem) not in self._audio and name not in self._used]
        return near_hint(near, stem) if near else ""


def near_hint(names: Sequence[str], stem: str) -> str:
    """Return what to do with files that look like a song's lyrics but have another name or place."""
    name = f"{printable(stem)}{Path(names[0]).suffix.lower()}"
    return f"{_list_names(names)}: not taken for its lyrics; call the file {name} beside it, {_REMEDY}"


def _list_names(names: Sequence[str]) -> str:
    listed = [printable(name) for name in names]
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")


def _look_at(path: Path) -> str:
    """Return why a file cannot be lyrics, "" where it can be: what cannot be read is said of the song later."""
    try:
        status = os.stat(path)
    except OSError as error:
        return f"cannot be opened: {error.strerror}"
    if not stat.S_ISREG(status.st_mode):
        return "not a regular file"
    may_be_encrypted = path.suffix.lower() == ".qrc"
    if status.st_size > _MAX_BLANK_BYTES and not may_be_encrypted:
        return ""
    try:
        with open_regular(path, may_be_empty=True) as file:
            data = file.read(_MAX_BLANK_BYTES + 1) or b""
    except (InputFileError, OSError):  # reading the song says so
        return ""
    if may_be_encrypted and data.startswith(QRC_MARK):
        return "encrypted; export it as LRC from the player that it belongs to"
    return "" if data.removeprefix(b"\xef\xbb\xbf").strip(b"\0 \t\r\n\v\f\xff\xfe") else "empty"
