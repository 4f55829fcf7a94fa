"""The worker of a cleaning run: one song from its file to its record."""

from collections.abc import Callable
from pathlib import Path

from jobs.clean_survey import quarantine, record_failure
from jobs.cluster import Row, naming
from jobs.failures import Failure, attempt
from pipeline.audio.decode import AudioDecodeError, hash_file
from pipeline.catalogue.inputs import SongInput
from pipeline.cleaning.check_audio import CheckAudio
from pipeline.cleaning.clean_song import finish_song, start_song
from pipeline.song import Drop, Song
from pipeline.stage import Stage, run_stages
from pipeline.transcription.transcribe_vocals import explain_drop


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
        source: SongInput = row["source"]
        seconds = {CheckAudio.name: row["checked"].seconds}
        try:
            with naming(source.song_id):
                result = attempt(lambda: self._listen(row, seconds))
        except AudioDecodeError as error:
            quarantine(self._out, row | {"quarantine": str(error)})
            return self._summary(row, "quarantine", str(error))
        if isinstance(result, Failure):
            record_failure(self._out, source, result)
            return self._summary(row, "failed", result.reason)
        song, drop = result
        finished = finish_song(
            self._out, song, drop, row["fingerprint"], seconds=seconds, keep_vocals=self._keep_vocals
        )
        return self._summary(row, finished["verdict"], finished["reason"])

    def _listen(self, row: Row, seconds: dict[str, float]) -> tuple[Song, Drop | None] | Failure:
        """Take a song through the stages; return it, and why it is rejected if it is."""
        song = start_song(row["source"], row["sha256"])
        row["checked"].fill(song)
        result = run_stages(self._stages, song, seconds)
        if hash_file(song.path) != song.sha256:  # the verdict would be that of other bytes
            return Failure("the file changed while the run was on; run again when nobody writes to it")
        return song, explain_drop(song, result) if isinstance(result, Drop) else None

    @staticmethod
    def _summary(row: Row, verdict: str, reason: str) -> Row:
        duration_s = row["checked"].duration_s
        return {"song_id": row["source"].song_id, "verdict": verdict, "reason": reason, "duration_s": duration_s}
