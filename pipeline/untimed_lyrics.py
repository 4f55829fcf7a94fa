"""Lyrics without times in SongBloom's format: for songs that do not exist yet."""

from pipeline.lyric_formats.document import Changes
from pipeline.lyric_formats.formats import FORMATS, convert
from pipeline.lyric_formats.reading import document_of
from pipeline.lyrics import ParsedLyrics


def format_untimed(parsed: ParsedLyrics) -> str:
    """Write parsed lyrics in SongBloom's format; a stanza before any header is a verse, ad-libs are left out."""
    return convert(document_of(parsed), FORMATS["songbloom"], Changes(), "").strip()
