"""How fast lyrics files are read: made files of 2 kB, from the disk to clean lines, on one core."""

import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pipeline.lyrics.encoding import read_lyrics
from pipeline.lyrics.parse import parse_lyrics

FILE_BYTES = 2000
KINDS = ("tagged", "lrc", "chinese", "web")
_WORDS = (
    "the rain on window and I wait for you here in night of city lights we run under stars with hearts open like doors "
    "that never close when morning comes my love don't go away from this old road home where river turns slow again"
).split()
_HAN = "我你他的心爱在风雨夜窗外海远等回家门开花路城市灯光走过梦想念"
_WEB = (
    "Written by Ada Merrow / Jon Halloway",
    "© 2021 Quiet Harbor Music. All rights reserved.",
    "You might also like",
    "(Repeat Chorus)",
    "&gt; one&nbsp;more<br/>",
    "https://www.example.com/lyrics",
    "------",
    "12Embed",
)


def measure_lyrics(num_files: int = 2000, seed: int = 0) -> dict[str, float]:
    """Read made files once and return how long it took.

    A quarter each: sections in brackets, LRC, Chinese LRC, and what web pages leave (credits, links, markup, repeats).

    Args:
        num_files: how many files are written to a temporary folder and read.
        seed: of the words in them.

    Returns:
        files_per_second, seconds_per_100000_files, bytes_per_file, lines_per_file, and for each kind
        `KIND_ms_per_file`; times are CPU time of this process.
    """
    rng = random.Random(seed)
    makers: dict[str, Callable[[random.Random], str]] = dict(
        zip(KINDS, (_make_tagged, _make_lrc, _make_chinese, _make_web), strict=True)
    )
    spent = dict.fromkeys(KINDS, 0.0)
    counts = dict.fromkeys(KINDS, 0)
    num_bytes = num_lines = 0
    with tempfile.TemporaryDirectory(prefix="bench-lyrics-") as folder:
        paths = []
        for index in range(num_files):
            kind = KINDS[index % len(KINDS)]
            path = Path(folder, f"{index:06d}.txt")
            path.write_text(makers[kind](rng), encoding="utf-8")
            num_bytes += path.stat().st_size
            paths.append((kind, path))
        for kind, path in paths:
            started_s = time.process_time()
            parsed = parse_lyrics(read_lyrics(path))
            spent[kind] += time.process_time() - started_s
            counts[kind] += 1
            num_lines += len(parsed.lines)
    total_s = sum(spent.values())
    return {
        "files_per_second": num_files / total_s,
        "seconds_per_100000_files": 1e5 * total_s / num_files,
        "bytes_per_file": num_bytes / num_files,
        "lines_per_file": num_lines / num_files,
        **{f"{kind}_ms_per_file": 1e3 * spent[kind] / max(counts[kind], 1) for kind in KINDS},
    }


def _fill(rng: random.Random, make: Callable[[random.Random, int], str]) -> str:
    """Add pieces until a file has its size."""
    parts: list[str] = []
    size = 0
    while size < FILE_BYTES:
        parts.append(make(rng, len(parts)))
        size += len(parts[-1].encode()) + 1
    return "\n".join(parts) + "\n"


def _make_line(rng: random.Random) -> str:
    line = " ".join(rng.choices(_WORDS, k=rng.randint(5, 9)))
    line = line[0].upper() + line[1:] + rng.choice(("", "", ","))
    return f"{line} (oh oh)" if rng.random() < 0.05 else line


def _make_tagged(rng: random.Random) -> str:
    chorus = [_make_line(rng) for _ in range(4)]

    def make(rng: random.Random, _: int) -> str:
        label = rng.choice(("Verse 1", "Chorus", "Bridge"))
        lines = chorus if label == "Chorus" else [_make_line(rng) for _ in range(rng.choice((4, 6, 8)))]
        return "\n".join((f"[{label}]", *lines, ""))

    return _fill(rng, make)


def _make_lrc(rng: random.Random) -> str:
    return f"[ti:Song {rng.randint(0, 9999)}]\n[ar:Ada Merrow]\n" + _fill(
        rng, lambda rng, index: f"{_make_stamp(index)}{_make_line(rng)}"
    )


def _make_chinese(rng: random.Random) -> str:
    return _fill(rng, lambda rng, index: f"{_make_stamp(index)}{''.join(rng.choices(_HAN, k=rng.randint(5, 11)))}")


def _make_web(rng: random.Random) -> str:
    return _fill(rng, lambda rng, _: rng.choice(_WEB) if rng.random() < 0.08 else _make_line(rng))


def _make_stamp(index: int) -> str:
    minutes, seconds = divmod(10 + 3 * index, 60)
    return f"[{minutes:02d}:{seconds:02d}.50]"
