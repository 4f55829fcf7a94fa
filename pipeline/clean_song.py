"""One raw song to one clean row: which stages, in which order, with which settings, and what identifies the result."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import soundfile

from pipeline.align_lyrics import AlignLyrics
from pipeline.aligner import check_aligner
from pipeline.check_audio import CheckAudio, ReadAudio
from pipeline.clean_folder import file_stem, format_lrc, format_textgrid, song_row, write_record, write_text
from pipeline.inputs import SongInput
from pipeline.label_sections import LabelSections
from pipeline.lyrics_encoding import LyricsError, decode_lyrics, read_lyrics_bytes
from pipeline.models import fingerprint_model, resolve_model
from pipeline.profiles import Profile
from pipeline.separate_vocals import SeparateVocals
from pipeline.song import Drop, Song
from pipeline.stage import Stage
from pipeline.transcribe_vocals import TranscribeVocals

STAGES: tuple[type[Stage], ...] = (CheckAudio, ReadAudio, SeparateVocals, TranscribeVocals, AlignLyrics, LabelSections)
MODELS = ("separator", "asr", "verifier")  # what the stages load


@dataclass(frozen=True, kw_only=True, slots=True)
class CleanSettings:
    """Everything that decides what comes out for a song, apart from the song itself."""

    profile: Profile
    language: str = "auto"
    min_duration_s: float = 1.0
    max_duration_s: float = 900.0
    seconds_per_tag: float = 1.0
    keep_vocals: bool = False
    lyrics_from_asr: bool = False

    def facts(self) -> dict[str, Any]:
        """Return settings, model hashes and stage versions: what `fingerprint` covers."""
        models = {stage: fingerprint_model(resolve_model(getattr(self.profile, stage), stage)) for stage in MODELS}
        models["aligner"] = check_aligner(self.profile.aligner, self.language)
        return {"settings": asdict(self), "models": models, "stages": {s.name: s.version for s in STAGES}}

    def fingerprint(self) -> str:
        """Return a hash over the facts: equal hashes give equal rows."""
        return hashlib.sha256(json.dumps(self.facts(), sort_keys=True).encode()).hexdigest()

    def check(self) -> CheckAudio:
        """Return the stage that reads a file and makes the cheap checks."""
        return CheckAudio(CheckAudio.Config(min_duration_s=self.min_duration_s, max_duration_s=self.max_duration_s))

    def stages(self, device: str, threads: int = 1) -> list[Stage]:
        """Return the stages that a song passes after its cheap checks."""
        return [
            ReadAudio(),
            SeparateVocals(
                SeparateVocals.Config(
                    model_name=self.profile.separator,
                    overlap=self.profile.separator_overlap,
                    accompaniment_share=self.profile.accompaniment_share,
                    batch_size=self.profile.batch_size(device),
                    precision=self.profile.separator_precision,
                    device=device,
                    keep_vocals=self.keep_vocals,
                )
            ),
            TranscribeVocals(
                TranscribeVocals.Config(
                    model_name=self.profile.asr, device=device, threads=threads, language=self.language
                )
            ),
            AlignLyrics(
                AlignLyrics.Config(
                    model_name=self.profile.verifier,
                    aligner_name=self.profile.aligner,
                    device=device,
                    threads=threads,
                    lyrics_from_asr=self.lyrics_from_asr,
                )
            ),
            LabelSections(LabelSections.Config(seconds_per_tag=self.seconds_per_tag)),
        ]


def song_fingerprint(settings_fingerprint: str, sha256: str, source: SongInput, lyrics: bytes) -> str:
    """Return the hash that a finished song is known by: its bytes, its lyrics, what is said of it, the settings."""
    digest = hashlib.sha256(settings_fingerprint.encode())
    for part in (sha256.encode(), lyrics, source.language.encode(), source.title.encode(), source.artist.encode()):
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def lyrics_bytes(source: SongInput) -> bytes:
    """Return the lyrics of a song as bytes, empty where it has none."""
    if source.lyrics_text is not None:
        return source.lyrics_text.encode("utf-8", "replace")  # half an emoji from a manifest is no text
    return read_lyrics_bytes(source.lyrics_path) if source.lyrics_path else b""


def start_song(source: SongInput, sha256: str) -> Song:
    """Return the record that the stages fill, with its lyrics read."""
    song = Song(
        song_id=source.song_id,
        path=source.path,
        audio=source.audio,
        language=source.language,
        title=source.title,
        artist=source.artist,
        sha256=sha256,
    )
    try:
        song.lyrics_text = decode_lyrics(lyrics_bytes(source))
    except LyricsError as error:
        song.warnings.append(f"lyrics not readable: {error}")
    return song


def finish_song(
    out: Path,
    song: Song,
    drop: Drop | None,
    fingerprint: str,
    *,
    seconds: dict[str, float] | None = None,
    keep_vocals: bool = False,
) -> dict[str, Any]:
    """Write everything that one finished song leaves in the output folder, its record last, and return its row.

    `seconds` that every stage took go into the record: a rerun that does nothing knows what the songs once cost.
    """
    row = song_row(song, drop, fingerprint)
    stem = file_stem(song.song_id)
    if drop is None:
        write_text(out / "lyrics" / f"{stem}.lrc", format_lrc(row))
        write_text(out / "lyrics" / f"{stem}.TextGrid", format_textgrid(row))
    if keep_vocals and song.vocals is not None:
        path = out / "vocals" / f"{stem}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, song.vocals.T, song.sample_rate, subtype="PCM_16")
    write_record(out, {"song_id": song.song_id, "fingerprint": fingerprint, "row": row, "seconds": seconds or {}})
    return row
