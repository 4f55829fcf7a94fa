"""The start of recordings with tags: the inputs that fuzzing of tags starts from."""

from pathlib import Path

from tests.pipeline.catalogue.test_tags import TITLE_AND_ARTIST, frame, id3, sylt, write

from .target import scratch

_TAGS = TITLE_AND_ARTIST | {"language": "deu", "lyrics": "eins zwei\ndrei é"}
_HEAD_BYTES = 1_500  # tags stand in front; a file that is cut behind them still has them


def tagged_files() -> list[bytes]:
    """Return files of every container that has tags, and MP3s with the frames that are read here."""
    containers = (("mp3", "libmp3lame"), ("flac", "flac"), ("ogg", "libopus"), ("matroska", "flac"), ("asf", "wmav2"))
    found = [_written(container, codec)[: 3 * _HEAD_BYTES] for container, codec in containers]
    mp3 = found[0][-2 * _HEAD_BYTES :]
    mp3 = mp3[mp3.find(b"\xff\xfb") :]
    for version in (3, 4):
        lines = sylt((1_000, "\none"), (1_500, " two"), (2_000, "\nthree"))
        wide = sylt((1_000, "one"), (2_000, "two"), encoding=2, codec="utf-16-be", end=b"\0\0")
        frames = [frame(b"TIT2", b"\3A song", version), frame(b"USLT", b"\3eng\0words", version)]
        for words, flags in ((lines, 0), (wide, 0x80), (b"\0" + lines[1:], 0x40)):
            found.append(id3(*frames, frame(b"SYLT", words, version), version=version, flags=flags) + mp3)
    misread = "Песня о лете".encode("cp1251")
    return [*found, id3(frame(b"TIT2", b"\0" + misread)) + mp3]


def _written(container: str, codec: str) -> bytes:
    path: Path = write(scratch() / f"tagged.{container}", container, codec, _TAGS, _TAGS)
    return path.read_bytes()
