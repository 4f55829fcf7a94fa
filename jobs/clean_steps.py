"""The worker of a cleaning run: one song from its file to its record."""

import functools
from collections.abc import Callable
from pathlib import Path

from jobs.clean_survey import quarantine
from jobs.cluster import Cluster, Row, Step, naming
from pipeline.audio import AudioDecodeError
from pipeline.check_audio import CheckAudio
from pipeline.clean_song import CleanSettings, finish_song, start_song
from pipeline.song import Drop
from pipeline.stage import Stage, run_stages
from pipeline.transcribe_vocals import explain_drop

GPU_WORKERS = 2  # per GPU: one decodes and aligns on the CPU while the other separates or transcribes


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
        """Finish one song; only a summary goes on."""
        song = start_song(row["source"], row["sha256"])
        row["checked"].fill(song)
        seconds = {CheckAudio.name: row["checked"].seconds}
        try:
            with naming(song.song_id):
                result = run_stages(self._stages, song, seconds)
        except ValueError as error:  # AudioDecodeError and whatever else a stage finds wrong with this song
            reason = str(error) if isinstance(error, AudioDecodeError) else f"{type(error).__name__}: {error}"
            quarantine(self._out, row | {"quarantine": reason})
            return {"song_id": song.song_id, "verdict": "quarantine", "reason": reason, "duration_s": song.duration_s}
        drop = explain_drop(song, result) if isinstance(result, Drop) else None
        finished = finish_song(
            self._out, song, drop, row["fingerprint"], seconds=seconds, keep_vocals=self._keep_vocals
        )
        return {name: finished[name] for name in ("song_id", "verdict", "reason", "duration_s")}


def build_step(settings: CleanSettings, out: Path, cluster: Cluster, workers: int | None) -> Step:
    """Return the one step of a cleaning run, with a worker per CPU core or a few per GPU."""
    device = "cuda" if cluster.num_gpus else "cpu"
    default = GPU_WORKERS * int(cluster.num_gpus) if cluster.num_gpus else max(1, int(cluster.num_cpus))
    make_worker = functools.partial(SongWorker, functools.partial(settings.stages, device), out, settings.keep_vocals)
    return Step(name="clean", make_worker=make_worker, **cluster.pool(1, workers or default))
