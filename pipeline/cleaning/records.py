"""The output folder of cleaning: a record per finished song while the job runs, then tables and files for people."""

import hashlib
import importlib.metadata
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.catalogue.inputs import RECORDS
from pipeline.lyric_formats.tagged import plain_text, stamp
from pipeline.song import Drop, Line, Section, Song, Word, file_stem
from shards.atomic_file import open_atomic

CHECKED = ".checked"  # what the cheap checks found out, one JSON file per content
TIMED_TEXT_SUFFIXES = (".lrc", ".TextGrid")
FAR_OFF_S, FAR_DRIFT = 0.5, 0.005  # of the times in a lyrics file, from those found: a listener notices

_SPAN = [("start_s", pa.float64()), ("end_s", pa.float64())]
SONGS_SCHEMA = pa.schema(
    [
        ("song_id", pa.string()),
        ("audio", pa.string()),
        ("sha256", pa.string()),
        ("duration_s", pa.float64()),
        ("sample_rate", pa.int32()),
        ("channels", pa.int32()),
        ("language", pa.string()),
        ("sung_language", pa.string()),
        ("text_language", pa.string()),
        ("title", pa.string()),
        ("artist", pa.string()),
        ("verdict", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        (
            "lines",
            pa.list_(
                pa.struct(
                    [
                        ("text", pa.string()),
                        *_SPAN,
                        ("section", pa.string()),
                        ("score", pa.float64()),
                        ("source", pa.string()),
                        ("edit", pa.string()),
                        ("support", pa.float64()),
                        ("agreement", pa.float64()),
                    ]
                )
            ),
        ),
        (
            "words",
            pa.list_(pa.struct([("text", pa.string()), *_SPAN, ("score", pa.float64()), ("line", pa.int32())])),
        ),
        (
            "dropped",
            pa.list_(
                pa.struct(
                    [
                        ("text", pa.string()),
                        ("reason", pa.string()),
                        ("line_number", pa.int32()),
                        ("support", pa.float64()),
                    ]
                )
            ),
        ),
        ("sections", pa.list_(pa.struct([("label", pa.string()), *_SPAN]))),
        ("songbloom_lyrics", pa.string()),
        ("lyrics_offset_s", pa.float64()),
        ("lyrics_drift", pa.float64()),
        (
            "metrics",
            pa.struct(
                [
                    (name, pa.float64())
                    for name in (
                        "evidence",
                        "sound_evidence",
                        "coverage",
                        "given_found",
                        "lyrics_times_fit",
                        "cer",
                        "mean_score",
                        "mean_logprob",
                        "vocal_ratio",
                        "voice_activity",
                        "no_speech",
                        "sung_language_probability",
                        "removed_unsure",
                        "removed_credits",
                        "removed_loop",
                        "removed_fast",
                        "removed_silent",
                        "lufs",
                        "true_peak_dbfs",
                        "rms_dbfs",
                        "dc_offset",
                        "silence_share",
                        "clipped_share",
                        "crest_db",
                        "bandwidth_hz",
                        "cutoff_hz",
                        "stereo_correlation",
                        "side_db",
                        "channel_difference_db",
                    )
                ]
            ),
        ),
        ("warnings", pa.list_(pa.string())),
        ("fingerprint", pa.string()),
    ]
)
QUARANTINE_SCHEMA = pa.schema([("song_id", pa.string()), ("audio", pa.string()), ("reason", pa.string())])
FAILED_SCHEMA = pa.schema([*QUARANTINE_SCHEMA, ("traceback", pa.string())])


def write_text(path: Path, text: str) -> None:
    """Write a file so that a reader sees either nothing or all of it."""
    with open_atomic(path) as stream:
        stream.write(text.encode())


def remove_timed_text(out: Path, song_id: str) -> None:
    """Remove the lyrics files of a song that is not kept any more."""
    for suffix in TIMED_TEXT_SUFFIXES:
        (out / "lyrics" / f"{file_stem(song_id)}{suffix}").unlink(missing_ok=True)


def song_row(song: Song, drop: Drop | None, fingerprint: str) -> dict[str, Any]:
    """Return one row of songs.parquet; a rejected song keeps what was found out about it."""
    metrics = {field.name: song.metrics.get(field.name) for field in SONGS_SCHEMA.field("metrics").type}
    return {
        "song_id": song.song_id,
        "audio": song.audio,
        "sha256": song.sha256,
        "duration_s": song.duration_s,
        "sample_rate": song.sample_rate,
        "channels": song.channels,
        "language": song.language,
        "sung_language": song.sung_language,
        "text_language": song.text_language,
        "title": song.title,
        "artist": song.artist,
        "verdict": "reject" if drop else "keep",
        "reason": drop.reason if drop else "",
        "detail": drop.detail if drop else "",
        "lines": [_line_row(line) for line in song.lines],
        "words": [_rounded(word, ("text", "start_s", "end_s", "score", "line")) for word in song.words],
        "dropped": [asdict(line) for line in song.dropped],
        "sections": [_rounded(section, ("label", "start_s", "end_s")) for section in song.sections],
        "songbloom_lyrics": song.songbloom_lyrics,
        "lyrics_offset_s": None if song.lyrics_offset_s is None else round(song.lyrics_offset_s, 3),
        "lyrics_drift": None if song.lyrics_drift is None else round(song.lyrics_drift, 5),
        "metrics": {name: None if value is None else round(float(value), 5) for name, value in metrics.items()},
        "warnings": song.warnings,
        "fingerprint": fingerprint,
    }


def _line_row(line: Line) -> dict[str, Any]:
    names = ("text", "start_s", "end_s", "section", "score", "source", "edit", "support", "agreement")
    return _rounded(line, names)


def _rounded(record: Line | Word | Section, names: tuple[str, ...]) -> dict[str, Any]:
    values = {name: getattr(record, name) for name in names}
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in values.items()}


def count_times(rows: Iterable[dict[str, Any]]) -> dict[str, int]:
    """Return how many of the kept songs have times in their lyrics files, and how right these are.

    `of_no_use`: no offset and no drift fits them. `off`, `drifting`: by FAR_OFF_S, by FAR_DRIFT, and more.
    """
    kept = [row for row in rows if row["verdict"] == "keep"]
    fitting = [row for row in kept if row["metrics"]["lyrics_times_fit"] is not None]
    trusted = [row for row in fitting if row["lyrics_offset_s"] is not None]
    return {
        "songs": len(fitting),
        "of_no_use": len(fitting) - len(trusted),
        "off": sum(abs(row["lyrics_offset_s"]) >= FAR_OFF_S for row in trusted),
        "drifting": sum(abs(row["lyrics_drift"] or 0.0) >= FAR_DRIFT for row in trusted),
    }


def record_path(out: Path, song_id: str) -> Path:
    """Return where the record of a finished song lies; spread over 256 folders."""
    digest = hashlib.sha256(song_id.encode()).hexdigest()
    return out / RECORDS / digest[:2] / f"{digest[2:34]}.json"


def write_record(out: Path, record: dict[str, Any]) -> None:
    """Write one song: `row` (of songs.parquet), `quarantine` or `failed` (with the reason), and its fingerprint."""
    write_text(record_path(out, record["song_id"]), json.dumps(record, ensure_ascii=False))


def read_record(out: Path, song_id: str) -> dict[str, Any] | None:
    """Return the record of a finished song, or None; a file that is no record counts as none."""
    try:
        record = json.loads(record_path(out, song_id).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and "fingerprint" in record else None


def write_table(path: Path, rows: Iterable[dict[str, Any]], schema: pa.Schema) -> None:
    """Write rows as Parquet under a temporary name, then rename."""
    with open_atomic(path) as stream:
        pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), stream)


def format_lrc(row: dict[str, Any]) -> str:
    """Return a kept song's lines as enhanced LRC: line stamps, and word stamps in angle brackets."""
    out = [f"[ti:{plain_text(row['title'] or row['song_id'])}]", f"[length:{stamp(row['duration_s'])}]"]
    words: dict[int, list[dict[str, Any]]] = {}
    for word in row["words"]:
        words.setdefault(word["line"], []).append(word)
    for index, line in enumerate(row["lines"]):
        stamped = " ".join(f"<{stamp(w['start_s'])}>{plain_text(w['text'])}" for w in words.get(index, []))
        out.append(f"[{stamp(line['start_s'])}]{stamped or plain_text(line['text'])}")
    return "\n".join(out) + "\n"


def format_textgrid(row: dict[str, Any]) -> str:
    """Return a kept song as a Praat TextGrid with the tiers sections, lines and words."""
    end_s = row["duration_s"]
    tiers = [
        ("sections", [(s["start_s"], s["end_s"], s["label"]) for s in row["sections"]]),
        ("lines", [(x["start_s"], x["end_s"], x["text"]) for x in row["lines"]]),
        ("words", [(w["start_s"], w["end_s"], w["text"]) for w in row["words"]]),
    ]
    out = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", f"xmax = {end_s:.4f}"]
    out += ["tiers? <exists>", f"size = {len(tiers)}", "item []:"]
    for number, (name, spans) in enumerate(tiers, 1):
        intervals = _fill_gaps(spans, end_s)
        out += [
            f"    item [{number}]:",
            '        class = "IntervalTier"',
            f'        name = "{name}"',
            "        xmin = 0",
        ]
        out += [f"        xmax = {end_s:.4f}", f"        intervals: size = {len(intervals)}"]
        for k, (start_s, stop_s, text) in enumerate(intervals, 1):
            escaped = " ".join(text.split()).replace('"', '""')
            out += [
                f"        intervals [{k}]:",
                f"            xmin = {start_s:.4f}",
                f"            xmax = {stop_s:.4f}",
            ]
            out.append(f'            text = "{escaped}"')
    return "\n".join(out) + "\n"


def _fill_gaps(spans: list[tuple[float, float, str]], end_s: float) -> list[tuple[float, float, str]]:
    """Return intervals that cover [0, end_s] as Praat wants them: empty ones between, no overlap."""
    filled: list[tuple[float, float, str]] = []
    clock_s = 0.0
    for index, (start_s, stop_s, text) in enumerate(spans):
        limit_s = spans[index + 1][0] if index + 1 < len(spans) else end_s
        start_s, stop_s = max(start_s, clock_s), min(stop_s, max(limit_s, clock_s), end_s)
        if stop_s <= start_s:
            continue
        if start_s > clock_s:
            filled.append((clock_s, start_s, ""))
        filled.append((start_s, stop_s, text))
        clock_s = stop_s
    if clock_s < end_s:
        filled.append((clock_s, end_s, ""))
    return filled


def write_run(out: Path, facts: dict[str, Any], stats: dict[str, Any]) -> None:
    """Write stats.json (counts and seconds) and run.json (settings, models, versions of this run)."""
    write_text(out / "stats.json", json.dumps(stats, ensure_ascii=False, indent=2) + "\n")
    packages = ("demucs", "whisperx", "ctranslate2", "faster-whisper", "torch", "ray")
    versions = {name: importlib.metadata.version(name) for name in packages}
    write_text(out / "run.json", json.dumps(facts | {"packages": versions}, ensure_ascii=False, indent=2) + "\n")
