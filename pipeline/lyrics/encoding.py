"""Bytes of a lyrics file to clean Unicode text.

Lyrics come from strangers: the encoding is guessed from the bytes alone, and whatever cannot be text is refused.
"""

import io
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import ftfy

from pipeline.input_file import InputFileError, machine_error, open_regular
from pipeline.lyrics.legacy_encodings import MIN_LEAD, decode, read_escaped, read_legacy, read_utf16
from pipeline.lyrics.line_text import KEPT_MARKS, mend_joiners
from pipeline.lyrics.packed import KRC_MARK, QRC_MARK, unpack_krc

MAX_LYRICS_BYTES = 1_000_000  # the longest songs have about 10 kB of lyrics
MAX_CONTROL_SHARE = 0.02  # more control characters than this is no text; random bytes read as Latin-1 have 0.2
MAX_STRAY_CONTROLS = 8  # in a short text a few strays are a large share
MAX_ACCENT_SHARE = 0.4  # of the letters in Latin-1 text; French and Czech stay under 0.2, misread Cyrillic is near 1
MIN_MISREAD_LETTERS = 12  # of text in another script; a few accented capitals can be anything
MAX_COMBINING_RUN = 4  # stacked accents; Vietnamese needs 2, and longer runs make normalisation slow

_WESTERN = ("cp1252", "iso8859_15", "mac_roman", "cp850")
_SAMPLE_BYTES = 1_500  # of lines that are not ASCII; eight lines have 300
_MAX_SAMPLE_LINE = 4_000
_ASCII_SAMPLE_BYTES = 1_000  # of others, which tell the language
_MIN_GOOD_LINES = 2  # of UTF-8 to one that is not; Chinese in GBK has hardly a line that is valid UTF-8 by chance
_UTF8_LEADS = (0xC2, 0xE0, 0xF0)  # the least first byte of a character that lacks its last byte but 0, 1, 2
_BYTE_ORDER_MARKS = (  # longer marks first: the UTF-32 one starts with the UTF-16 one
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\x84\x31\x95\x33", "gb18030"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
_MAYBE_MISREAD = re.compile("[\u00c2-\u00f4][^\\x00-\\x7f]")  # how a sequence of UTF-8 begins, read as Western
_LINE_BREAKS = re.compile("\r\n|[\r\v\f\x1c\x1d\x1e\x85\u2028\u2029]")
_ASCII_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f]")
_LOOKED_AT = frozenset({"Cc", "Cf", "Cs", "Co", "Mn"})
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co"})  # control, format (zero-width, bidi), surrogates, private use


class LyricsError(ValueError):
    """Lyrics that cannot be read as text."""


def read_lyrics(path: Path) -> str:
    """Read and decode one lyrics file.

    Raises:
        LyricsError: it cannot be read as text.
        MachineReadError: the file cannot be read here and now.
    """
    try:
        return decode_lyrics(read_lyrics_bytes(path))
    except LyricsError as error:
        raise LyricsError(str(error) if str(path) in str(error) else f"{path}: {error}") from error


def read_lyrics_bytes(path: Path) -> bytes:
    """Read one lyrics file, one byte beyond `MAX_LYRICS_BYTES` at most; raises as `read_lyrics`."""
    try:
        with open_regular(path, may_be_empty=True) as file:
            return _read_bytes(path, file)
    except InputFileError as error:
        raise LyricsError(f"{path}: {error}") from error


def _read_bytes(path: Path, file: io.FileIO) -> bytes:
    data = b""
    try:
        while len(data) <= MAX_LYRICS_BYTES and (more := file.read(MAX_LYRICS_BYTES + 1 - len(data))):
            data += more
    except OSError as error:
        raise machine_error(error, path) from error
    return data


@dataclass(frozen=True, slots=True)
class LyricsText:
    """Lyrics as clean text, the codec that they were read with, and what a person should know of that."""

    text: str
    encoding: str
    warnings: tuple[str, ...] = ()


def decode_lyrics(data: bytes, language: str = "") -> str:
    r"""Decode lyrics of unknown encoding to clean text: NFC, `\n` line ends, no invisible characters.

    See `read_text`, which also says how they were read.
    """
    return read_text(data, language).text


def read_text(data: bytes, language: str = "") -> LyricsText:
    """Decode lyrics of unknown encoding.

    Tried in this order: byte order mark, UTF-16 without mark, encodings of seven bits, UTF-8, UTF-8 with a few bad
    bytes, and all encodings of `pipeline.lyrics.legacy_encodings` at once.

    Args:
        data: the file.
        language: ISO 639-1, where it is known: it decides between readings that are equally good.

    Raises:
        LyricsError: over `MAX_LYRICS_BYTES`, binary data, or an encoding that is none of these.
    """
    if len(data) > MAX_LYRICS_BYTES:
        raise LyricsError(f"lyrics are over {MAX_LYRICS_BYTES} bytes; no song has that many words")
    found = _choose(_unpack(data), language)
    share = _control_share(found.text)
    if share > MAX_CONTROL_SHARE and share * len(found.text) > MAX_STRAY_CONTROLS:
        raise LyricsError("binary data, not text")
    return replace(found, text=clean_text(mend_misread(found.text)))


def _unpack(data: bytes) -> bytes:
    """Return the text of a file that a player packed, any other file as it is."""
    if data.startswith(QRC_MARK):
        raise LyricsError("encrypted QRC of QQ Music; export it as LRC from the player")
    if not data.startswith(KRC_MARK):
        return data
    unpacked = unpack_krc(data, MAX_LYRICS_BYTES)
    if unpacked is None:
        raise LyricsError("damaged KRC of KuGou; download it again, or export it as LRC from the player")
    if len(unpacked) > MAX_LYRICS_BYTES:
        raise LyricsError(f"KRC of KuGou that holds over {MAX_LYRICS_BYTES} bytes; no song has that many words")
    return unpacked


def _choose(data: bytes, language: str) -> LyricsText:
    """Return the text as the codec has it that fits best."""
    for mark, name in _BYTE_ORDER_MARKS:
        if data.startswith(mark):
            return LyricsText(_decode_marked(data, name), name)
    if wide := _guess_utf16(data):
        if (decoded := decode(data, wide)) is not None:
            return LyricsText(decoded, wide)
    if found := read_utf16(data) or read_escaped(data):
        return LyricsText(found[1], found[0])
    if (decoded := decode(data, "utf-8")) is not None:
        return LyricsText(decoded, "utf-8")
    if nearly := _read_nearly_utf8(data):
        return nearly
    readings = read_legacy(_sample(data), language)
    whole = [(reading, text) for reading in readings if (text := decode(data, reading.encoding)) is not None]
    if not whole:
        name = _check_latin(data)
        return LyricsText(data.decode(name), name, (f"lyrics_encoding: read as {name}, which is a guess",))
    best, text = whole[0]
    equal = [found.encoding for found, other in whole if other != text and found.cost < best.cost + MIN_LEAD]
    warnings = (f"lyrics_encoding: read as {best.encoding}, {' or '.join(equal)} is as likely",) if equal else ()
    return LyricsText(text, best.encoding, warnings)


def _decode_marked(data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise LyricsError(
            f"marked as {encoding}, but byte {error.start} does not fit; save the file as UTF-8"
        ) from error


def _sample(data: bytes) -> bytes:
    """Return as much of a text as tells its encoding: whole lines, more of those with something beyond ASCII."""
    lines: list[bytes] = []
    room = [_SAMPLE_BYTES, _ASCII_SAMPLE_BYTES]
    for line in data.splitlines(keepends=True):
        is_ascii = line.isascii()
        if room[is_ascii] > 0:
            lines.append(line[:_MAX_SAMPLE_LINE])
            room[is_ascii] -= len(line)
        if room[0] <= 0:
            break
    return b"".join(lines)


def _read_nearly_utf8(data: bytes) -> LyricsText | None:
    """Return a text that is UTF-8 but for a cut last character, or for single lines in Latin-1; None for others."""
    lines = data.split(b"\n")
    texts = [decode(line, "utf-8") for line in lines]
    num_good = sum(text is not None and not text.isascii() for text in texts)
    bad = [number for number, text in enumerate(texts) if text is None]
    if bad == [len(lines) - 1] and (kept := _without_cut_character(lines[-1])) is not None:
        texts[-1] = kept + "\ufffd"
        bad, warning = [], "lyrics_encoding: UTF-8 that is cut in the middle of its last character"
    elif num_good >= _MIN_GOOD_LINES * len(bad):
        num_lines = sum(map(bool, lines))
        warning = f"lyrics_encoding: UTF-8, but {len(bad)} of {num_lines} lines are not and were read as Western"
    else:
        return None
    for number in bad:
        texts[number] = lines[number].decode("cp1252", "replace")
    return LyricsText("\n".join(text or "" for text in texts), "utf-8", (warning,))


def _without_cut_character(line: bytes) -> str | None:
    """Return a line of UTF-8 without the beginning of a character at its end; None if it is none, or plain ASCII."""
    for size in (1, 2, 3):
        text = decode(line[:-size], "utf-8")
        if text is not None:
            is_start = line[-size] >= _UTF8_LEADS[size - 1]
            return text if is_start and not text.isascii() else None
    return None


def mend_misread(text: str) -> str:
    """Undo a wrong decoding that was saved: UTF-8 or another encoding read as Windows-1252 ("donâ€™t", "ïðèâåò")."""
    if text.isascii():
        return text
    high = sum(text.count(char) for char in set(text) if "\xa1" <= char <= "\xff")
    num_letters = sum(char.isalpha() or char > "\xa0" for char in text) if high >= MIN_MISREAD_LETTERS else 0
    if high >= MIN_MISREAD_LETTERS and high > MAX_ACCENT_SHARE * num_letters:
        data = _to_bytes(text)
        is_utf8 = data is not None and decode(data, "utf-8") is not None  # below
        readings = read_legacy(_sample(data)) if data is not None and not is_utf8 else []
        mended = decode(data, readings[0].encoding) if data is not None and readings else None
        if mended is not None and not readings[0].encoding.startswith(_WESTERN):
            return mended
    if not _MAYBE_MISREAD.search(text):
        return text
    lines = text.split("\n")
    mended_lines = {line: ftfy.fix_encoding(line) for line in {*lines} if _MAYBE_MISREAD.search(line)}
    return "\n".join(mended_lines.get(line, line) for line in lines)


def _to_bytes(text: str) -> bytes | None:
    """Return the bytes that a Western codec shows as `text`, or None if there are none."""
    try:
        return b"".join(char.encode("latin-1" if char < "\u0100" else "cp1252") for char in text)
    except UnicodeEncodeError:
        return None


def clean_text(text: str) -> str:
    """Remove what no reader sees: control, bidirectional and private characters, piled-up accents.

    Zero-width spaces between words become blanks, and joiners stay where they spell (`pipeline.lyrics.line_text`).
    """
    text = _LINE_BREAKS.sub("\n", text)
    if _may_need_cleaning(text):
        text = "".join(_visible(mend_joiners(text)))
    return unicodedata.normalize("NFC", text)


def _may_need_cleaning(text: str) -> bool:
    """Whether a character is one that `_visible` looks at; nearly all texts have none."""
    if text.isascii():
        return _ASCII_CONTROL.search(text) is not None
    return any(_category(char) in _LOOKED_AT for char in set(text) - {"\n", "\t"})


def _visible(text: str) -> Iterator[str]:
    run = 0
    for char in text:
        category = _category(char)
        if category in _INVISIBLE and char not in KEPT_MARKS:
            continue
        run = run + 1 if category == "Mn" else 0
        if run <= MAX_COMBINING_RUN:
            yield char


@lru_cache(maxsize=1 << 16)
def _category(char: str) -> str:
    return unicodedata.category(char)


def _guess_utf16(data: bytes) -> str | None:
    """Return the UTF-16 byte order of text that has an ASCII character in at least a third of its 16-bit units."""
    units = len(data) // 2
    if len(data) % 2 or units < 2 or b"\x00" not in data:
        return None
    even, odd = data[0::2].count(0), data[1::2].count(0)
    if odd * 3 >= units and even == 0:
        return "utf-16-le"
    if even * 3 >= units and odd == 0:
        return "utf-16-be"
    return None


def _check_latin(data: bytes) -> str:
    """Return the Western codec for `data` if its letters look Western."""
    name = "cp1252" if decode(data, "cp1252") is not None else "latin-1"
    text = data.decode(name)
    share = _control_share(text)
    if share > MAX_CONTROL_SHARE and share * len(text) > MAX_STRAY_CONTROLS:
        raise LyricsError("binary data, not text")
    letters = [char for char in text if char.isalpha()]
    accented = sum("\x7f" < char < "\u0250" for char in letters)
    if not letters or accented > MAX_ACCENT_SHARE * len(letters):
        raise LyricsError("unknown text encoding; save the file as UTF-8")
    return name


def _control_share(text: str) -> float:
    strange = [char for char in set(text) if _category(char) in ("Cc", "Cs", "Cn") and char not in "\n\r\t\f\v\x85"]
    return sum(map(text.count, strange)) / max(len(text), 1)
