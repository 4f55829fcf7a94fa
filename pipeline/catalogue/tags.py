"""What an audio file says of itself in its tags: title, artist, language, and lyrics.

FFmpeg reads the tags of all containers (ID3v2 TIT2, TPE1, TLAN, USLT; MP4 with its lyrics atom; Vorbis comments; APE;
Matroska; RIFF). It does not read ID3v2 SYLT, lyrics with times: that frame is read here (https://id3.org/id3v2.4.0-frames,
section 4.9).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.audio.file import AudioFile, open_audio, open_stream
from pipeline.catalogue.inputs import SongInput
from pipeline.lyrics.encoding import MAX_LYRICS_BYTES, LyricsError, read_text
from pipeline.lyrics.language_names import UnknownLanguageError, language_code
from pipeline.lyrics.stamps import MAX_TIME_S

MAX_NAME_CHARS = 500  # of a title or an artist; longer ones are cut
MAX_ID3_BYTES = 32 << 20  # most of a tag is its picture; a larger one is not searched for SYLT
MAX_FRAMES = 10_000  # of an ID3 tag, as many as are looked at
MIN_MISREAD_LETTERS = 4  # beyond ASCII: two characters of Chinese
MIN_MISREAD_SHARE = 0.4  # of the letters beyond ASCII, as lyrics_encoding.MAX_ACCENT_SHARE: no Western text has more

# Keys as FFmpeg gives them, in lower case: "lyrics-eng" and "lyrics-description-eng" of ID3, "WM/Lyrics" of WMA.
_LYRICS_KEY = re.compile(
    r"(?:wm/|----:com\.apple\.itunes:)?"
    r"(?P<kind>synced ?lyrics|lyrics|unsynced ?lyrics|unsynchroni[sz]ed ?lyrics|uslt)(?:-(?:.*-)?(?P<language>[^-]*))?",
    re.DOTALL,
)
_KINDS = ("synced", "lyrics", "unsync", "uslt")  # in order of preference
_STAMP = re.compile(r"^\s*\[\d{1,3}:\d{2}", re.MULTILINE)
_LETTER = re.compile(r"[^\W\d_]")
_NOTHING = frozenset({"", "unknown", "unknown artist", "unknown title", "untitled", "none", "null", "n/a", "-"})
_ENCODINGS = ("latin-1", "utf-16", "utf-16-be", "utf-8")  # of ID3v2 text, by its first byte
_MILLISECONDS, _WORDS = 2, (1, 2)  # of SYLT: unit of its times; content that is sung (lyrics, transcription)


@dataclass(frozen=True, slots=True)
class Tags:
    """What the tags of an audio file say; "" where they say nothing."""

    title: str = ""
    artist: str = ""
    language: str = ""  # ISO 639-1
    lyrics: str = ""  # plain, LRC or any text that parse_lyrics reads; over MAX_LYRICS_BYTES decode_lyrics refuses it


def read_tags(source: Path | AudioFile, language: str = "") -> Tags:
    """Return the tags of an audio file.

    Of several lyrics those in the song's language are taken, then those with times. The language is the one that the
    tags name for the whole recording: those of a stream or of a lyrics frame are what the writing program puts
    everywhere, and only tell two frames apart.

    Args:
        source: any audio file.
        language: of the song as ISO 639-1, where it is known; the tags' own counts otherwise.

    Raises:
        AudioDecodeError: no audio file that is read here.
        MachineReadError: the file cannot be read here and now.
    """
    if isinstance(source, AudioFile):
        return _read(source, language)
    with open_audio(source) as file:
        return _read(file, language)


def fill_from_tags(song: SongInput, tags: Tags) -> SongInput:
    """Return a song with what its tags say where nothing else says it: lyrics beside the file or in a manifest win."""
    has_lyrics = song.lyrics_path is not None or song.lyrics_text is not None
    return replace(
        song,
        title=song.title or tags.title,
        artist=song.artist or tags.artist,
        language=song.language or tags.language,
        lyrics_text=song.lyrics_text if has_lyrics else tags.lyrics or None,
        hint="" if tags.lyrics else song.hint,
    )


def _read(file: AudioFile, language: str) -> Tags:
    file.select(0, file.num_bytes)
    with open_stream(file) as (container, stream):
        entries = [(key.lower(), value) for key, value in container.metadata.items()]
        is_ogg = container.format.name == "ogg"  # whose comments stand on the stream
        on_stream = [(key.lower(), value) for key, value in stream.metadata.items()]
        entries += [(key, value) for key, value in on_stream if is_ogg or key != "language"]
    file.raise_fault()
    values = dict(reversed(entries))  # the first of a name counts
    synchronised = "\n".join(_read_synchronised(file))
    file.raise_fault()
    file.seek(0)
    named = _language(values.get("language", ""))
    lyrics = synchronised or _lyrics(entries, language or named)
    names = [values.get(key, "")[: 4 * MAX_NAME_CHARS] for key in ("title", "artist")]
    title, artist, lyrics = _mend([*names, lyrics[: MAX_LYRICS_BYTES + 1]])
    return Tags(_name(title), _name(artist), named, lyrics)


def _name(value: str) -> str:
    text = " ".join(value.replace("\0", " ").split())[:MAX_NAME_CHARS]
    return "" if text.casefold() in _NOTHING else text


def _language(value: str) -> str:
    """Return the code of the one language that a tag names; "" for several, or for what is none."""
    try:
        codes = {language_code(part) for part in re.split(r"[;,/\0]", value[:MAX_NAME_CHARS])} - {""}
    except UnknownLanguageError:
        return ""
    return codes.pop() if len(codes) == 1 else ""


def _lyrics(entries: list[tuple[str, str]], language: str) -> str:
    found = []
    for key, value in entries:
        kind = _LYRICS_KEY.fullmatch(key[:MAX_NAME_CHARS])
        if kind and value.strip():
            rank = next(rank for rank, start in enumerate(_KINDS) if kind["kind"].startswith(start))
            is_other = not language or _language(kind["language"] or "") != language
            found.append((is_other, _STAMP.search(value[:MAX_LYRICS_BYTES]) is None, rank, value))
    if not found:
        return ""
    return min(found, key=lambda entry: entry[:3])[3][: MAX_LYRICS_BYTES + 1]


def _mend(texts: list[str]) -> list[str]:
    """Return texts as what they are that were written in an old encoding and read as Latin-1: GBK and CP1251 often are.

    Those of one file are taken together: a title alone is too short to know its encoding by.
    """
    misread = [text for text in texts if _is_misread(text)]
    try:
        encoding = read_text("\n".join(misread).encode("latin-1")).encoding if misread else ""
    except LyricsError:
        return texts
    return [text.encode("latin-1").decode(encoding, "replace") if text in misread else text for text in texts]


def _is_misread(text: str) -> bool:
    letters = _LETTER.findall(text)
    num_beyond = sum(letter > "\x7f" for letter in letters)
    return (
        num_beyond >= MIN_MISREAD_LETTERS
        and num_beyond > MIN_MISREAD_SHARE * len(letters)
        and max(text, default="") <= "\xff"
    )


def _read_synchronised(file: AudioFile) -> Iterator[str]:
    """Yield the lines of the first SYLT frame that has words and milliseconds, as LRC; nothing if there is none."""
    for name, data in _read_id3_frames(file):
        if name == b"SYLT" and (lines := _read_sylt(data)):
            yield from lines
            return


def _read_id3_frames(file: AudioFile) -> Iterator[tuple[bytes, bytes]]:
    """Yield names and contents of the frames of an ID3v2.3 or 2.4 tag at the start of a file, those that are plain."""
    file.select(0, file.num_bytes)
    head = file.read(10)
    if len(head) < 10 or head[:3] != b"ID3" or head[3] not in (3, 4):
        return
    version, flags, size = head[3], head[5], _synchsafe(head[6:10])
    if size > MAX_ID3_BYTES:
        return
    if version == 3 and flags & 0x80:  # the whole tag is unsynchronised, sizes count the bytes before that
        data = file.read(size).replace(b"\xff\x00", b"\xff")
    else:
        data = file.read(size)
    place = 0
    if flags & 0x40 and len(data) >= 4:  # an extended header, whose size counts itself in 2.4 alone
        place = _synchsafe(data[:4]) if version == 4 else 4 + int.from_bytes(data[:4])
    for _ in range(MAX_FRAMES):
        name, frame = data[place : place + 4], data[place + 4 : place + 10]
        if len(frame) < 6 or not name.strip(b"\0"):
            return
        length = _synchsafe(frame[:4]) if version == 4 else int.from_bytes(frame[:4])
        content = data[place + 10 : place + 10 + length]
        place += 10 + length
        if version == 4:
            is_plain = not frame[5] & 0x0C  # neither compressed nor encrypted
            content = content[(frame[5] & 0x01) * 4 + (frame[5] >> 6 & 1) :]  # after its length and its group
            if frame[5] & 0x02 or flags & 0x80:
                content = content.replace(b"\xff\x00", b"\xff")
        else:
            is_plain = not frame[5] & 0xC0
            content = content[frame[5] >> 5 & 1 :]
        if is_plain:
            yield name, content


def _synchsafe(data: bytes) -> int:
    return sum((byte & 0x7F) << 7 * place for place, byte in enumerate(reversed(data)))


def _read_sylt(data: bytes) -> list[str]:
    """Return a SYLT frame's words as LRC; none if it is damaged or holds something else (chords, trivia)."""
    if len(data) < 7 or data[0] >= len(_ENCODINGS) or data[4] != _MILLISECONDS or data[5] not in _WORDS:
        return []
    data = data[: MAX_LYRICS_BYTES + 1]
    encoding, place = _ENCODINGS[data[0]], 6
    segments: list[tuple[int, str]] = []
    wide = b"\xff\xfe" if encoding == "utf-16" else b""
    _, place, wide = _read_string(data, place, encoding, wide)
    while 0 < place < len(data):
        text, place, wide = _read_string(data, place, encoding, wide)
        if place < 0 or place + 4 > len(data):
            break
        segments.append((int.from_bytes(data[place : place + 4]), text))
        place += 4
    if any(time_ms > MAX_TIME_S * 1000 for time_ms, _ in segments):
        return []
    return list(_write_lrc(segments))


def _read_string(data: bytes, place: int, encoding: str, order: bytes) -> tuple[str, int, bytes]:
    """Return a string that ends in zero, the place after it (-1 where it has no end), and its byte order mark."""
    if encoding.startswith("utf-16"):
        end = place
        while (end := data.find(b"\0\0", end)) >= 0 and (end - place) % 2:
            end += 1
        raw = data[place:end]
        if encoding == "utf-16":
            if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
                order, raw = raw[:2], raw[2:]
            encoding = "utf-16-le" if order == b"\xff\xfe" else "utf-16-be"
        return raw.decode(encoding, "replace"), end + 2 if end >= 0 else -1, order
    end = data.find(b"\0", place)
    return data[place:end].decode(encoding, "replace"), end + 1 if end >= 0 else -1, order


def _write_lrc(segments: list[tuple[int, str]]) -> Iterator[str]:
    """Yield lines with stamps: a line per segment, or words in lines where a line break says which begin one."""
    breaks = [text.replace("\r", "\n").startswith("\n") for _, text in segments]
    if not any(breaks[1:]):
        for time_ms, text in segments:
            if words := _one_line(text):
                yield f"[{_stamp(time_ms)}]{words}"
        return
    line = ""
    for (time_ms, text), begins in zip(segments, breaks, strict=True):
        if begins and line:
            yield line
            line = ""
        line += (f"[{_stamp(time_ms)}]" if not line else "") + f"<{_stamp(time_ms)}>{_one_line(text, trims=False)}"
    if line:
        yield line


def _one_line(text: str, *, trims: bool = True) -> str:
    text = re.sub(r"\s*[\r\n]\s*", " ", text.strip("\r\n"))
    text = text.replace("[", "(").replace("]", ")").replace("<", "(").replace(">", ")")
    return text.strip() if trims else text


def _stamp(time_ms: int) -> str:
    return f"{time_ms // 60_000:02d}:{time_ms % 60_000 / 1000:06.3f}"
