"""Which song goes to which shard: a pure function of the songs and the settings, never of workers or of time."""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipeline.catalogue.inputs import SongInput
from pipeline.encoding.encode_song import ENCODING_VERSION, SongToEncode
from pipeline.input_file import InputError
from pipeline.lyric_formats.songbloom import format_lyrics
from pipeline.lyric_formats.untimed_lyrics import list_sections, share_out
from pipeline.lyrics.language import identify_text
from pipeline.lyrics.parse import parse_lyrics
from pipeline.song import Line, Section
from shards.schema import FRAME_RATE_HZ, LATENT_CHANNELS, PROMPT_FRAMES
from shards.writer import make_key

UNKNOWN_LANGUAGE = "und"  # ISO 639-2's code for a language that nobody determined
_METADATA_BYTES = 30_000  # of a song with 60 lines
_CLEAN_COLUMNS = (
    "song_id",
    "audio",
    "sha256",
    "duration_s",
    "language",
    "verdict",
    "lines",
    "words",
    "sections",
    "songbloom_lyrics",
    "metrics",
)


@dataclass(frozen=True, slots=True)
class PlannedShard:
    """One shard and the songs in it, in their order."""

    name: str  # such as "train/000000.tar"
    songs: tuple[SongToEncode, ...]

    @property
    def fingerprint(self) -> str:
        """A hash over all that decides the shard's bytes."""
        return hashlib.sha256("".join(song.fingerprint for song in self.songs).encode()).hexdigest()


def plan_shards(
    songs: Iterable[SongToEncode], *, val_fraction: float, shard_bytes: int, prompts_per_song: int
) -> list[PlannedShard]:
    """Spread songs over shards of about `shard_bytes`.

    Songs are ordered by a hash of their key: shards are mixed, and adding a song moves few others. A song belongs to
    the validation split if the hash of its audio is low, so that copies of a recording share a split.
    """
    ordered = sorted(songs, key=lambda song: _unit_hash(song.key))
    val = {song.key for song in ordered if _unit_hash(song.row["sha256"]) < val_fraction}
    if val_fraction > 0 and not val and len(ordered) > 1:  # few songs: one to validate on all the same
        val = {min(ordered, key=lambda song: _unit_hash(song.row["sha256"])).key}
    plan = []
    for split in ("train", "val"):
        chosen = [song for song in ordered if (song.key in val) == (split == "val")]
        plan += _cut(chosen, split, shard_bytes, prompts_per_song)
    return plan


def _cut(songs: Sequence[SongToEncode], split: str, shard_bytes: int, prompts_per_song: int) -> list[PlannedShard]:
    groups: list[list[SongToEncode]] = []
    filled = 0.0
    for song in songs:
        frames = song.row["duration_s"] * FRAME_RATE_HZ
        size = (
            frames * (2 + 4 * LATENT_CHANNELS)
            + prompts_per_song * PROMPT_FRAMES * LATENT_CHANNELS * 2
            + _METADATA_BYTES
        )
        if not groups or filled + size > shard_bytes:
            groups.append([])
            filled = 0.0
        groups[-1].append(song)
        filled += size
    return [PlannedShard(f"{split}/{number:06d}.tar", tuple(group)) for number, group in enumerate(groups)]


def _unit_hash(text: str) -> float:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def _encode_order(source: Path, row: dict[str, Any], lyrics_source: str, models: dict[str, Any]) -> SongToEncode:
    facts = {"row": row, "lyrics_source": lyrics_source, "models": models, "version": ENCODING_VERSION}
    fingerprint = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return SongToEncode(
        key=make_key(row["song_id"]),
        path=source / row["audio"],
        lyrics_source=lyrics_source,
        row=row,
        fingerprint=fingerprint,
    )


def songs_from_clean(source: Path, clean: Path, models: dict[str, Any]) -> list[SongToEncode]:
    """Return the kept songs of clean/songs.parquet; `source` is the folder that its audio paths are relative to."""
    path = clean / "songs.parquet"
    try:
        rows = pq.read_table(path, columns=list(_CLEAN_COLUMNS)).to_pylist()
    except (OSError, ValueError) as error:  # pyarrow's errors are subclasses of these
        raise InputError(f"{path}: cannot be read: {error}; run jobs/clean_lyrics.py again") from error
    songs = []
    for row in rows:
        if row.pop("verdict") != "keep":
            continue
        _check_row(row, source, path)
        songs.append(_encode_order(source, row, "clean", models))
    if not songs:
        raise InputError(f"{path}: no kept song among {len(rows)}; its report.html says why each was rejected")
    missing = [song for song in songs if not song.path.exists()]
    if missing:
        raise InputError(
            f"{missing[0].path} of song {missing[0].row['song_id']!r} is missing (and {len(missing) - 1} more); "
            "--in must be the folder that was cleaned"
        )
    return songs


def _check_row(row: dict[str, Any], source: Path, path: Path) -> None:
    """Refuse a row that cleaning never writes; what is wrong within its lists, the shard writer finds and names."""
    where = f"{path}: song {row['song_id']!r}"
    for name in ("song_id", "audio", "sha256", "language", "songbloom_lyrics"):
        if not isinstance(row[name], str) or "\0" in row[name] or len(row[name]) > 1_000_000:
            raise InputError(f"{where}: {name} is {str(row[name])[:80]!r}, expected text")
    if not isinstance(row["duration_s"], float) or not 0 < row["duration_s"] < float("inf"):
        raise InputError(f"{where}: duration_s is {row['duration_s']!r}, expected seconds")
    for name in ("lines", "words", "sections"):
        spans = row[name]
        if not isinstance(spans, list) or not all(
            isinstance(span, dict) and None not in span.values() for span in spans
        ):
            raise InputError(f"{where}: {name} has gaps; clean it again")
    if not row["sections"] or not isinstance(row["metrics"], dict):
        raise InputError(f"{where}: no sections or no metrics; clean it again")
    # By name and not by what a link leads to: a folder of links is a common way to choose songs.
    if not Path(os.path.normpath(source / row["audio"])).is_relative_to(source):
        raise InputError(f"{where}: audio {row['audio']!r} lies outside {source}")


def song_from_raw(
    source: SongInput, lyrics_text: str, sha256: str, duration_s: float, models: dict[str, Any]
) -> SongToEncode:
    """Return a song with its lyrics as found: read, but neither checked nor timed.

    Sections are those of the file's headers, as generation writes them; their times share the song out, see
    `untimed_lyrics.share_out`. Lines have none, and name their section.
    """
    parsed = parse_lyrics(lyrics_text, title=source.title, artist=source.artist, language=source.language)
    words = "\n".join(line.text for line in parsed.lines)
    language = source.language or parsed.language or identify_text(words) or UNKNOWN_LANGUAGE
    found = list_sections(parsed) if parsed.lines else ()
    sections = share_out(found, duration_s) if found else [Section("inst", 0.0, duration_s)]
    lines = [
        (index, Line(line.text, span.start_s, span.end_s, span.label, 0.0, "lyrics", "kept"))
        for index, (section, span) in enumerate(zip(found, sections, strict=False))
        for line in section.lines
    ]
    row = {
        "song_id": source.song_id,
        "audio": source.audio,
        "sha256": sha256,
        "duration_s": duration_s,
        "language": language,
        "lines": [
            {
                "text": line.text,
                "start_s": None,
                "end_s": None,
                "section": line.section,
                "section_index": index,
                "score": None,
                "source": line.source,
                "edit": line.edit,
            }
            for index, line in lines
        ],
        "words": [],
        "sections": [asdict(section) for section in sections],
        "songbloom_lyrics": format_lyrics(sections, [line for _, line in lines]),
        "metrics": {},
    }
    order = _encode_order(source.path.parent, row, "raw", models)
    return SongToEncode(key=order.key, path=source.path, lyrics_source="raw", row=row, fingerprint=order.fingerprint)
