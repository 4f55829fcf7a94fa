"""Lyrics from one format to another: SongBloom, YuE, ACE-Step, DiffRhythm, SongGeneration, Muse, Suno, LRC, plain.

Text is read as cleaning reads it: credits, links, page furniture and translations are left out, repeats written out.
Cleaned songs (songs.parquet) bring their measured times and sections. Whatever the target cannot hold, and whatever
reading dropped, is named with a count and an example; nothing goes silently.
"""

import argparse
import json
import logging
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

from jobs.cluster import resolve_path
from jobs.command import EXIT_FINE, EXIT_SHORT, CommandParser, run_command
from pipeline.cleaning.records import write_text
from pipeline.input_file import InputError
from pipeline.lyric_formats.document import Document
from pipeline.lyric_formats.formats import FORMATS, Format, convert
from pipeline.lyric_formats.lyrics_files import REPORT_NAME, ROWS, Song, find_inputs, read_songs
from pipeline.lyric_formats.songbloom import validate
from pipeline.lyrics.encoding import LyricsError
from pipeline.phonemes.phonemizer import Phonemizer
from shards.atomic_file import open_atomic

logger = logging.getLogger(__name__)


def check_song(song: Song, phonemizer: Phonemizer, target: Format) -> dict[str, Any]:
    """Return what is wrong with a song as SongBloom's format, and its symbols without a sound in the vocabulary."""
    is_songbloom = song.source_format.startswith("songbloom")
    text = song.text.strip() if is_songbloom else ""
    if not is_songbloom and song.document is not None:
        text = convert(song.document, target, song.changes, song.name).strip()
    phonemes = phonemizer.lyric_ids(text)
    return {
        "problems": validate(text),
        "unknown_symbols": dict(Counter(phonemes.unknown)),
        "num_ids": len(phonemes.ids),
    }


def convert_song(song: Song, target: Format, phonemizer: Phonemizer, output: "Output") -> dict[str, Any]:
    """Write a song in the target format and return what to report of it."""
    text = convert(song.document or Document(sections=()), target, song.changes, song.name)
    facts: dict[str, Any] = {"out": str(output.place(song, text)), "to": target.name}
    if target.name.startswith("songbloom"):
        facts["unknown_symbols"] = dict(Counter(phonemizer.lyric_ids(text.strip()).unknown))
    return facts


class Output:
    """Where converted songs go: one file, or a folder with a file per song and a report; complete when it is closed."""

    def __init__(self, out: Path, target: Format, is_single: bool, sources: Iterable[Path]) -> None:
        """Decide between file and folder: a name with a suffix is a file."""
        self._out, self._target = out, target
        self._is_file = bool(out.suffix) and not out.is_dir()
        self._is_single = is_single
        self._sources = {source.resolve() for source in sources}
        if self._is_file:
            self._check_new(out)
        if self._is_file and not is_single and target.suffix != ".jsonl":
            raise InputError(f"--out {out}: many songs do not fit one {target.name} file; name a folder")
        self._taken: set[str] = set()
        self._stack = ExitStack()
        stream_path = out if self._is_file else out / REPORT_NAME
        self._stream = self._stack.enter_context(open_atomic(stream_path))

    def __enter__(self) -> "Output":
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def place(self, song: Song, text: str) -> Path:
        """Write one song and return its path; songs of equal names get numbers."""
        if self._is_file:
            self._stream.write(text.encode())
            return self._out
        name, count = song.name, 1
        while name.casefold() in self._taken:
            count += 1
            name = f"{song.name}-{count}"
        self._taken.add(name.casefold())
        path = self._out / f"{name}{self._target.suffix}"
        self._check_new(path)
        write_text(path, text)
        return path

    def _check_new(self, path: Path) -> None:
        if path.resolve() in self._sources:
            raise InputError(f"--out {self._out}: {path.name} would replace an input of that name; name another place")

    def report(self, report: dict[str, Any]) -> None:
        """Add a row to the folder's report; a file of its own is not written where its song failed."""
        if self._is_file and "failed" in report and self._is_single:
            raise LyricsError(report["failed"])
        if not self._is_file:
            self._stream.write((json.dumps(report, ensure_ascii=False) + "\n").encode())


def describe(report: dict[str, Any]) -> str:
    """Return one line for people about what one song lost."""
    losses = [f"{loss['what']} x{loss['count']} ({loss['example']})" for loss in report["changes"]]
    unknown = report.get("unknown_symbols")
    losses += [f"no sound in the vocabulary: {' '.join(unknown)}"] if unknown else []
    losses += report.get("problems", [])
    return "; ".join(losses) if losses else "nothing lost"


def run(arguments: argparse.Namespace) -> tuple[dict[str, Any], int]:
    """Convert or check all inputs and return the totals."""
    inputs = find_inputs([resolve_path(path) for path in arguments.source])
    target = FORMATS[arguments.target or "songbloom"]
    songs = chain.from_iterable(read_songs(path, name, arguments.source_format or "") for path, name in inputs)
    first = list(islice(songs, 2))
    if len(first) == 1 and first[0].failure:
        raise LyricsError(first[0].failure)
    phonemizer = Phonemizer("plain")
    totals = Totals()
    out = resolve_path(arguments.out)
    sources = [path for path, _ in inputs]
    with nullcontext() if arguments.check else Output(out, target, len(first) == 1, sources) as output:
        for song in chain(first, songs):
            report = handle(song, target, phonemizer, output)
            is_guessed = not arguments.source_format and song.source_format != ROWS
            said = report.get("failed") or report.get("rejected") or describe(report)
            logger.info("%s (%s%s): %s", song.name, song.source_format, ", guessed" if is_guessed else "", said)
            totals.add(report)
            if output is not None:
                output.report(report)
    return totals.facts(), EXIT_SHORT if totals.failed or totals.faulty else EXIT_FINE


def handle(song: Song, target: Format, phonemizer: Phonemizer, output: Output | None) -> dict[str, Any]:
    """Convert one song, or check it where there is no output; return the row of the report."""
    report: dict[str, Any] = {"source": song.source, "from": song.source_format}
    if song.failure or song.rejected:
        report |= {"failed": song.failure} if song.failure else {"rejected": song.rejected}
    else:
        try:
            report |= convert_song(song, target, phonemizer, output) if output else check_song(song, phonemizer, target)
        except LyricsError as error:
            report["failed"] = f"{song.source}: {error}"
    report["changes"] = song.changes.listed()
    return report


@dataclass(slots=True)
class Totals:
    """What the last line of the command says."""

    songs: int = 0
    written: int = 0
    failed: int = 0
    rejected: int = 0
    faulty: int = 0
    first_failure: str | None = None
    formats: Counter[str] = field(default_factory=Counter)
    changes: Counter[str] = field(default_factory=Counter)
    unknown_symbols: Counter[str] = field(default_factory=Counter)

    def add(self, report: dict[str, Any]) -> None:
        """Count one song."""
        self.songs += 1
        self.written += "out" in report
        self.failed += "failed" in report
        self.rejected += "rejected" in report
        self.faulty += bool(report.get("problems"))
        self.first_failure = self.first_failure or report.get("failed")
        self.formats[report["from"]] += 1
        self.changes.update({loss["what"]: loss["count"] for loss in report["changes"]})
        self.unknown_symbols.update(report.get("unknown_symbols", {}))

    def facts(self) -> dict[str, Any]:
        """Return the totals for JSON; of the symbols the 100 commonest."""
        return {
            "songs": self.songs,
            "from": dict(self.formats),
            "written": self.written,
            "failed": self.failed,
            "rejected": self.rejected,
            "faulty": self.faulty,
            "changes": dict(self.changes),
            "num_unknown_symbols": self.unknown_symbols.total(),
            "unknown_symbols": dict(self.unknown_symbols.most_common(100)),
            "first_failure": self.first_failure,
        }


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    formats = "\n".join(f"  {form.name:15} {form.about}" for form in FORMATS.values())
    parser = CommandParser(
        prog="convert_lyrics.py",
        description=__doc__,
        epilog=f"formats:\n{formats}\n  {ROWS:15} songs.parquet of jobs/clean_lyrics.py, kept songs (to read only)\n\n"
        "examples:\n"
        "  python jobs/convert_lyrics.py --in song.lrc --to songbloom --out song.txt\n"
        "  python jobs/convert_lyrics.py --in clean/ --to diffrhythm --out lrc/          # measured times\n"
        "  python jobs/convert_lyrics.py --in clean/ --to muse --out songs.jsonl         # all songs in one file\n"
        "  python jobs/convert_lyrics.py --in lyrics/ --from suno --to ace-step\n"
        "  python jobs/convert_lyrics.py --in song.txt --check                           # faults, missing symbols\n",
    )
    parser.add_argument(
        "--in", dest="source", type=Path, nargs="+", required=True, metavar="PATH",
        help="files, folders of files, or the folder of cleaned songs",
    )  # fmt: skip
    parser.add_argument(
        "--from", dest="source_format", choices=[*FORMATS, ROWS], metavar="FORMAT",
        help="format of the input (default: guessed from each text, and said)",
    )  # fmt: skip
    parser.add_argument("--to", dest="target", choices=list(FORMATS), metavar="FORMAT", help="format to write")
    parser.add_argument(
        "--out", type=Path, default=Path("converted"), help="folder, or a file for one song (.jsonl: also for many); "
        f"a folder also gets {REPORT_NAME}, a row per song with all that changed (default: converted/)"
    )  # fmt: skip
    parser.add_argument(
        "--check", action="store_true", help="write nothing: list the faults of lyrics in SongBloom's format, and the "
        "symbols that its vocabulary has no sound for; other formats are converted to it first"
    )  # fmt: skip
    arguments = parser.parse_args()
    if not arguments.check and arguments.target is None:
        parser.error("--to is needed: one of " + ", ".join(FORMATS) + "; or --check")
    return arguments


if __name__ == "__main__":
    run_command(lambda: run(parse_arguments()))
