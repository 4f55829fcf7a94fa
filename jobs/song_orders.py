"""Which songs a user asks jobs/generate.py for: from the command line, or from a file with a song a line."""

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import soundfile

from jobs.cluster import resolve_path
from pipeline.input_file import InputError
from pipeline.lyric_formats.songbloom import validate
from pipeline.lyric_formats.untimed_lyrics import format_untimed
from pipeline.lyrics.encoding import read_lyrics
from pipeline.lyrics.parse import parse_lyrics

ENTRY = '{"lyrics": file, "prompt": file, "out": file, "seed": 0}'


@dataclass(frozen=True, slots=True)
class Order:
    """One song to write."""

    lyrics: str  # in SongBloom's format
    prompt: Path
    prompt_start_s: float
    seed: int
    out: Path
    continued: Path | None = None  # recording to go on from
    continue_at_s: float | None = None  # where its end is taken to be; None: where it ends


def read_orders(arguments: argparse.Namespace) -> list[Order]:
    """Return the songs that the command line or the --batch file asks for."""
    if not arguments.batch:
        if not arguments.lyrics or not arguments.prompt:
            raise InputError("--lyrics and --prompt are needed, or --batch with a file that names them")
        return [
            Order(
                to_songbloom_format(resolve_path(arguments.lyrics)),
                resolve_path(arguments.prompt),
                arguments.prompt_start,
                arguments.seed,
                resolve_path(arguments.out),
                resolve_path(getattr(arguments, "continue")) if getattr(arguments, "continue") else None,
                arguments.continue_at,
            )
        ]
    for name in ("lyrics", "prompt", "continue", "continue_at"):
        if getattr(arguments, name, None) is not None:
            flag = f"--{name.replace('_', '-')}"
            raise InputError(f"{flag} beside --batch, whose lines name it for each song; leave {flag} out")
    path = resolve_path(arguments.batch)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"--batch {path}: cannot be read: {error}") from error
    orders = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            orders.append(_read_entry(json.loads(line), path.parent, arguments.seed + number - 1))
        except (ValueError, ArithmeticError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(f"{path}: line {number}: {error}; expected {ENTRY}") from error
    if not orders:
        raise InputError(f"{path}: no songs in it")
    return orders


def _read_entry(entry: dict[str, Any], folder: Path, seed: int) -> Order:
    """Return the song of one line of a --batch file."""
    lyrics, prompt, out = (folder / entry[name] for name in ("lyrics", "prompt", "out"))
    at_s = entry.get("continue_at")
    return Order(
        to_songbloom_format(lyrics),
        prompt,
        float(entry.get("prompt_start", 0.0)),
        int(entry.get("seed", seed)),
        out,
        folder / entry["continue"] if entry.get("continue") else None,
        None if at_s is None else float(at_s),
    )


def check_orders(orders: Sequence[Order], *, streams: bool) -> None:
    """Refuse before any work what could not be written after it."""
    for order in orders:
        if not soundfile.check_format(order.out.suffix[1:].upper() or "-", "PCM_16"):
            raise InputError(f"--out {order.out}: no such audio format; take .flac or .wav")
        if streams and order.out.suffix.lower() != ".wav":
            raise InputError(f"--out {order.out}: --stream writes .wav files, whose samples may be floats")
        if order.out.is_dir():
            raise InputError(f"--out {order.out}: a folder")
        if order.seed < 0:
            raise InputError(f"seed {order.seed}: expected 0 or more")
        if order.continue_at_s is not None and order.continued is None:
            raise InputError(f"{order.out}: --continue-at without --continue")
        for what, audio in (("prompt", order.prompt), ("recording to continue", order.continued)):
            if audio is not None and not audio.is_file():
                raise InputError(f"{what} {audio}: no such file")
        folder = next(parent for parent in order.out.absolute().parents if parent.exists())
        if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
            raise InputError(f"--out {order.out}: {folder} is no folder that can be written to")
    paths = [order.out.resolve() for order in orders]
    for path in paths:
        if paths.count(path) > 1:
            raise InputError(f"{path}: two songs would be written to it")


def to_songbloom_format(path: Path) -> str:
    """Read a lyrics file and return it in SongBloom's format; text that is in it already stays as it is."""
    text = read_lyrics(path).strip()
    if not validate(text):
        return text
    parsed = parse_lyrics(text)
    if not parsed.lines:
        raise InputError(
            f"{path}: no line to sing; as SongBloom's format it has these faults: {'; '.join(validate(text))}"
        )
    return format_untimed(parsed)
