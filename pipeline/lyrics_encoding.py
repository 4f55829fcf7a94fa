"""Bytes of a lyrics file to clean Unicode text.

Lyrics come from strangers: the encoding is guessed from the bytes alone, and whatever cannot be text is refused.
"""

import os
import re
import stat
import unicodedata
from pathlib import Path

import ftfy

MAX_LYRICS_BYTES = 1_000_000  # the longest songs have about 10 kB of lyrics
MAX_CONTROL_SHARE = 0.02  # more control characters than this is no text; random bytes read as Latin-1 have 0.2
MAX_STRAY_CONTROLS = 8  # in a short text a few strays are a large share
MAX_ACCENT_SHARE = 0.4  # of the letters in Latin-1 text; French and Czech stay under 0.2, misread Cyrillic is near 1
MIN_COMMON_HAN_SHARE = 0.3  # of the non-ASCII characters in GBK or Big5; traditional text in GBK has about 0.5
MIN_MISREAD_HAN_SHARE = 0.9  # of such text read again as GBK; right text reaches 1, accented capitals about 0.5
MIN_MISREAD_LETTERS = 12  # about eight Chinese characters; a few accented capitals can be anything
MAX_COMBINING_RUN = 4  # stacked accents; Vietnamese needs 2, and longer runs make normalisation slow

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
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co"})  # control, format (zero-width, bidi), surrogates, private use


class LyricsError(ValueError):
    """Lyrics that cannot be read as text."""


def read_lyrics(path: Path) -> str:
    """Read and decode one lyrics file."""
    try:
        return decode_lyrics(read_lyrics_bytes(path))
    except LyricsError as error:
        raise LyricsError(str(error) if str(path) in str(error) else f"{path}: {error}") from error


def read_lyrics_bytes(path: Path) -> bytes:
    """Read one lyrics file; only regular files are opened, so a pipe cannot hang the reader."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise LyricsError(f"{path}: cannot be opened ({getattr(error, 'strerror', error)})") from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise LyricsError(f"{path}: not a regular file")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            data = file.read(MAX_LYRICS_BYTES + 1)
    except OSError as error:
        raise LyricsError(f"{path}: cannot be read ({error.strerror})") from error
    finally:
        os.close(descriptor)
    return data


def decode_lyrics(data: bytes) -> str:
    r"""Decode lyrics of unknown encoding to clean text: NFC, `\n` line ends, no invisible characters.

    Tried in this order: byte order mark, UTF-8, UTF-16 without mark, GB18030 and Big5, Windows-1252.

    Raises:
        LyricsError: over `MAX_LYRICS_BYTES`, binary data, or an encoding that is none of these.
    """
    if len(data) > MAX_LYRICS_BYTES:
        raise LyricsError(f"lyrics are over {MAX_LYRICS_BYTES} bytes; no song has that many words")
    encoding = detect_encoding(data)
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise LyricsError(
            f"marked as {encoding}, but byte {error.start} does not fit; save the file as UTF-8"
        ) from error
    share = _control_share(text)
    if share > MAX_CONTROL_SHARE and share * len(text) > MAX_STRAY_CONTROLS:
        raise LyricsError("binary data, not text")
    return clean_text(mend_misread(text))


def mend_misread(text: str) -> str:
    """Undo a wrong decoding that was saved: UTF-8 or GBK that somebody read as Windows-1252 ("donâ€™t", "ÎÒÃÇ")."""
    letters = [char for char in text if char.isalpha()]
    accented = sum("\xc0" <= char <= "\xff" for char in letters)
    if accented >= MIN_MISREAD_LETTERS and accented > MAX_ACCENT_SHARE * len(letters):
        data = _decodes_to_bytes(text)
        if data is not None and _common_han_share(data, "gb18030") >= MIN_MISREAD_HAN_SHARE:
            return data.decode("gb18030")
    lines = text.split("\n")
    mended = {line: ftfy.fix_encoding(line) for line in {*lines} if _MAYBE_MISREAD.search(line)}
    return "\n".join(mended.get(line, line) for line in lines)


def _decodes_to_bytes(text: str) -> bytes | None:
    """Return the bytes that a Western codec shows as `text`, or None if there are none."""
    try:
        return b"".join(char.encode("latin-1" if char < "\u0100" else "cp1252") for char in text)
    except UnicodeEncodeError:
        return None


def clean_text(text: str) -> str:
    """Remove what no reader sees: control, zero-width, bidirectional and private characters, piled-up accents."""
    kept: list[str] = []
    run = 0
    for char in _LINE_BREAKS.sub("\n", text):
        category = unicodedata.category(char)
        if category in _INVISIBLE and char not in "\n\t":
            continue
        run = run + 1 if category == "Mn" else 0
        if run <= MAX_COMBINING_RUN:
            kept.append(char)
    return unicodedata.normalize("NFC", "".join(kept))


def detect_encoding(data: bytes) -> str:
    """Return the codec name that fits `data` best; raise LyricsError if none does."""
    for mark, name in _BYTE_ORDER_MARKS:
        if data.startswith(mark):
            return name
    if wide := _guess_utf16(data):
        return wide
    if _decodes(data, "utf-8") is not None:
        return "utf-8"
    best = max(("gb18030", "big5hkscs"), key=lambda name: _common_han_share(data, name))
    if _common_han_share(data, best) >= MIN_COMMON_HAN_SHARE:
        return best
    return _check_latin(data)


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


def _common_han_share(data: bytes, encoding: str) -> float:
    """Share of common Chinese characters and punctuation among the non-ASCII characters; 0 if `data` does not decode.

    Accented Latin letters followed by ASCII also form valid pairs, but nearly all of them outside the common planes.
    """
    text = _decodes(data, encoding)
    chars = [char for char in text or "" if char > "\x7f"]
    if not chars:
        return 0.0
    pairs = [char.encode(encoding) for char in chars]
    if encoding == "gb18030":  # GB 2312: symbols, level 1 and level 2 characters, both bytes high
        common = sum(len(pair) == 2 and pair[0] <= 0xF7 and pair[1] >= 0xA1 and pair[0] >= 0xA1 for pair in pairs)
    else:  # Big5: symbols and level 1 characters
        common = sum(len(pair) == 2 and 0xA1 <= pair[0] <= 0xC6 for pair in pairs)
        common = 0 if common < 0.9 * len(pairs) else common  # level 2 is rare in Big5 text, frequent in misread text
    return common / len(pairs)


def _check_latin(data: bytes) -> str:
    """Return the Western codec for `data` if its letters look Western."""
    name = "cp1252" if _decodes(data, "cp1252") is not None else "latin-1"
    text = data.decode(name)
    share = _control_share(text)
    if share > MAX_CONTROL_SHARE and share * len(text) > MAX_STRAY_CONTROLS:
        raise LyricsError("binary data, not text")
    letters = [char for char in text if char.isalpha()]
    accented = sum(char > "\x7f" for char in letters)
    if not letters or accented > MAX_ACCENT_SHARE * len(letters):
        raise LyricsError("unknown text encoding; save the file as UTF-8")
    return name


def _control_share(text: str) -> float:
    controls = sum(unicodedata.category(char) in ("Cc", "Cs", "Cn") and char not in "\n\r\t\f\v\x85" for char in text)
    return controls / max(len(text), 1)


def _decodes(data: bytes, encoding: str) -> str | None:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        return None
