"""The workers of a cleaning run: survey an input, read it, separate, then hear, check and write."""

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from jobs.cluster import Cluster, Row, Step, naming
from pipeline.audio import AudioDecodeError, hash_file, require_regular_file
from pipeline.clean_folder import read_record, write_record
from pipeline.clean_song import CleanSettings, finish_song, lyrics_bytes, song_fingerprint, start_song
from pipeline.inputs import SongInput
from pipeline.lyrics_encoding import LyricsError
from pipeline.song import Drop, Song
from pipeline.stage import Stage, run_stages


@dataclass(frozen=True, slots=True)
class Survey:
    """First pass over an input, without decoding: is it a file, which bytes, is it finished already?"""

    out: Path
    settings_fingerprint: str

    def __call__(self, row: Row) -> Row:
        """Add sha256 and fingerprint, or why the input goes to quarantine."""
        source: SongInput = row["source"]
        try:
            if source.problem:
                raise AudioDecodeError(source.problem)
            require_regular_file(source.path)
            sha256 = hash_file(source.path)
        except AudioDecodeError as error:
            return row | {"quarantine": str(error)}
        except OSError as error:
            return row | {"quarantine": f"cannot be read: {error.strerror}"}
        try:
            lyrics = lyrics_bytes(source)
        except LyricsError:  # start_song says so in the song's warnings
            lyrics = b"unreadable"
        fingerprint = song_fingerprint(self.settings_fingerprint, sha256, source, lyrics)
        record = read_record(self.out, source.song_id)
        return row | {
            "sha256": sha256,
            "fingerprint": fingerprint,
            "finished": record is not None and record["fingerprint"] == fingerprint,
        }


class Pass:
    """A worker that runs some stages on a row's song, unless the song has left already, and times them."""

    def __init__(self, make_stages: Callable[[], list[Stage]]) -> None:
        """Set the stages up, once per process."""
        self._stages = make_stages()
        for stage in self._stages:
            stage.setup()

    def __call__(self, row: Row) -> Row:
        """Run the stages; a fault of the file itself becomes `quarantine`, a rejection becomes `drop`."""
        if row.get("quarantine") or row.get("drop"):
            return row
        started = time.monotonic()
        try:
            with naming(row["source"].song_id):
                result = run_stages(self._stages, row["song"])
        except ValueError as error:  # AudioDecodeError and whatever else a stage finds wrong with this song
            reason = str(error) if isinstance(error, AudioDecodeError) else f"{type(error).__name__}: {error}"
            return row | {"quarantine": reason, "song": None}
        seconds = row.get("seconds", {}) | {self._stages[0].name: time.monotonic() - started}
        return row | {"drop": result if isinstance(result, Drop) else None, "seconds": seconds}


class ReadSong(Pass):
    """Start a song's record and make the cheap checks."""

    def __call__(self, row: Row) -> Row:
        """Run the checks on a fresh song."""
        return super().__call__(row | {"song": start_song(row["source"], row["sha256"])})


class FinishSong(Pass):
    """Run the last stages and write what the song leaves in the output folder; only a summary goes on."""

    def __init__(self, make_stages: Callable[[], list[Stage]], out: Path, keep_vocals: bool) -> None:
        """Set the stages up and remember where to write."""
        super().__init__(make_stages)
        self._out, self._keep_vocals = out, keep_vocals

    def __call__(self, row: Row) -> Row:
        """Finish one song."""
        row = super().__call__(row)
        song: Song | None = row["song"]
        summary = {"song_id": row["source"].song_id, "seconds": row.get("seconds", {})}
        if row.get("quarantine") or song is None:
            quarantine(self._out, row)
            return summary | {"verdict": "quarantine", "reason": row["quarantine"]}
        finished = finish_song(self._out, song, row.get("drop"), row["fingerprint"], keep_vocals=self._keep_vocals)
        return summary | {
            "verdict": finished["verdict"],
            "reason": finished["reason"],
            "duration_s": finished["duration_s"],
        }


def _one(make_stage: Callable[[], Stage]) -> list[Stage]:
    return [make_stage()]


class Separation(Pass):
    """Separate vocals; what no later stage reads does not travel further."""

    def __init__(self, make_stages: Callable[[], list[Stage]], keep_vocals: bool) -> None:
        """Set the stages up."""
        super().__init__(make_stages)
        self._keep_vocals = keep_vocals

    def __call__(self, row: Row) -> Row:
        """Separate one song."""
        row = super().__call__(row)
        song: Song | None = row.get("song")
        if song is not None:
            song.mix = None
            song.vocals = song.vocals if self._keep_vocals else None
        return row


def quarantine(out: Path, row: Row) -> None:
    """Record an input that holds no usable audio."""
    source: SongInput = row["source"]
    entry = {"song_id": source.song_id, "audio": source.audio, "reason": row["quarantine"]}
    write_record(out, {"song_id": source.song_id, "fingerprint": row.get("fingerprint", ""), "quarantine": entry})


def build_steps(settings: CleanSettings, out: Path, cluster: Cluster, workers: int | None) -> list[Step]:
    """Return the stream of one cleaning run: read, separate, then hear, align and write."""
    pool = cluster.pool(2, workers)
    device = "cuda" if cluster.num_gpus else "cpu"
    read = functools.partial(ReadSong, functools.partial(_one, settings.check))
    separation = functools.partial(_one, functools.partial(settings.separate, device))
    separate = functools.partial(Separation, separation, settings.keep_vocals)
    finish = functools.partial(FinishSong, functools.partial(settings.verify, device), out, settings.keep_vocals)
    return [
        Step(name="read", make_worker=read),
        Step(name="separate", make_worker=separate, **pool),
        Step(name="verify", make_worker=finish, **pool),
    ]
