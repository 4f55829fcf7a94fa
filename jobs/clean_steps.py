"""The worker of a cleaning run: one song from its file to its record."""

from collections.abc import Callable
from pathlib import Path

from jobs.clean_survey import quarantine, record_failure
from jobs.cluster import Row, naming
from jobs.failures import Failure, attempt
from pipeline.audio import AudioDecodeError, hash_file
from pipeline.check_audio import CheckAudio
from pipeline.clean_song import finish_song, start_song
from pipeline.song import Drop, Song
from pipeline.stage import Stage, run_stages
from pipeline.transcribe_vocals import explain_drop


class SongWorker:
    """Takes songs through all stages, one at a time, and writes what each leaves in the output folder.

    A song stays with its worker, so that no audio travels between processes and no core waits for another stage;
    workers are at different stages of different songs.
    """

    def __init__(self, make_stages: Callable[[], list[Stage]], out: Path, keep_vocals: bool) -> None:
        """Set the stages up, once per process."""
        self._stages = make_stages()
        for stage in self._stages:
            stage.setup()
        self._out, self._keep_vocals = out, keep_vocals

    def __call__(self, row: Row) -> Row:
        """Take one song to its record; only a summary goes on."""
        song = start_song(row["source"], row["sha256"])
        row["checked"].fill(song)
        seconds = {CheckAudio.name: row["checked"].seconds}
        try:
            with naming(song.song_id):
                result = attempt(lambda: run_stages(self._stages, song, seconds))
                if hash_file(song.path) != song.sha256:  # the verdict would be that of other bytes
                    result = Failure("the file changed while the run was on; run again when nobody writes to it")
        except AudioDecodeError as error:
            quarantine(self._out, row | {"quarantine": str(error)})
            return self._summary(song, "quarantine", str(error))
        if isinstance(result, Failure):
            record_failure(self._out, row["source"], result)
            return self._summary(song, "failed", result.reason)
        drop = explain_drop(song, result) if isinstance(result, Drop) else None
        finished = finish_song(
            self._out, song, drop, row["fingerprint"], seconds=seconds, keep_vocals=self._keep_vocals
        )
        return self._summary(song, finished["verdict"], finished["reason"])

    @staticmethod
    def _summary(song: Song, verdict: str, reason: str) -> Row:
        return {"song_id": song.song_id, "verdict": verdict, "reason": reason, "duration_s": song.duration_s}
