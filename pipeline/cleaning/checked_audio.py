"""What the cheap checks found out about a file's content, kept by its hash so that a rerun need not decode it again."""

import hashlib
import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.audio.decode import AudioDecodeError
from pipeline.cleaning.check_audio import CheckAudio
from pipeline.cleaning.records import CHECKED, write_text
from pipeline.song import AudioFingerprint, Drop, Song
from pipeline.stage import StageError


@dataclass(slots=True, kw_only=True)
class CheckedAudio:
    """One file's facts; either `unreadable` says why it holds no audio, or the rest is filled in."""

    unreadable: str = ""
    drop_reason: str = ""
    drop_detail: str = ""
    duration_s: float = 0.0
    sample_rate: int = 0
    channels: int = 0
    metrics: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    landmark_names: list[int] = field(default_factory=list)
    landmark_frames: list[int] = field(default_factory=list)
    seconds: float = field(default=0.0, compare=False)  # that the checks took

    @property
    def landmarks(self) -> AudioFingerprint:
        """The fingerprint of the recording."""
        return AudioFingerprint(np.array(self.landmark_names, np.uint64), np.array(self.landmark_frames, np.int32))

    @property
    def drop(self) -> Drop | None:
        """Why the song is rejected already."""
        return Drop(self.drop_reason, self.drop_detail) if self.drop_reason else None

    def fill(self, song: Song) -> None:
        """Put the facts where CheckAudio puts them."""
        song.duration_s, song.sample_rate, song.channels = self.duration_s, self.sample_rate, self.channels
        song.metrics |= self.metrics
        song.warnings += self.warnings


def check_file(out: Path, path: Path, sha256: str, stage: CheckAudio) -> CheckedAudio:
    """Return the facts of a file whose bytes hash to `sha256`, from an earlier run into `out` or by decoding it.

    Raises:
        StageError: they cannot be written; that is no fault of the file.
    """
    key = f"{sha256} {stage.version} {stage.config}"
    kept = out / CHECKED / sha256[:2] / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
    try:
        return CheckedAudio(**json.loads(kept.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError):  # none yet, or not what this version writes
        checked = _check(path, stage)
    try:
        write_text(kept, json.dumps(asdict(checked)))
    except OSError as error:
        raise StageError(f"{kept}: cannot be written: {error.strerror}; look at the folder {out}") from error
    return checked


def _check(path: Path, stage: CheckAudio) -> CheckedAudio:
    song = Song(song_id="", path=path, audio="")
    started = time.monotonic()
    try:
        result = stage.process(song)
    except AudioDecodeError as error:
        return CheckedAudio(unreadable=str(error))
    drop = result if isinstance(result, Drop) else Drop("")
    landmarks = song.landmarks
    return CheckedAudio(
        drop_reason=drop.reason,
        drop_detail=drop.detail,
        duration_s=song.duration_s,
        sample_rate=song.sample_rate,
        channels=song.channels,
        metrics=song.metrics,
        warnings=song.warnings,
        landmark_names=[] if landmarks is None else landmarks.names.tolist(),
        landmark_frames=[] if landmarks is None else landmarks.frames.tolist(),
        seconds=time.monotonic() - started,
    )
