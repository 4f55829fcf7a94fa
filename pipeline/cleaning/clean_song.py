"""One raw song to one clean row: which stages, in which order, with which settings, and what identifies the result."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import soundfile

from pipeline.alignment.by_language import AUTOMATIC, check_aligner, check_aligners
from pipeline.catalogue.inputs import SongInput
from pipeline.cleaning.check_audio import CheckAudio, ReadAudio
from pipeline.cleaning.label_sections import LabelSections
from pipeline.cleaning.records import format_lrc, format_textgrid, remove_timed_text, song_row, write_record, write_text
from pipeline.lyrics.encoding import LyricsError, read_lyrics_bytes, read_text
from pipeline.model_files.fingerprint import fingerprint_model
from pipeline.model_files.profiles import Profile, locate_models
from pipeline.separation.separate_vocals import SeparateVocals
from pipeline.song import Drop, Song, file_stem
from pipeline.stage import Stage
from pipeline.transcription.transcribe_vocals import TranscribeVocals
from pipeline.verification.align_lyrics import AlignLyrics

STAGES: tuple[type[Stage], ...] = (CheckAudio, ReadAudio, SeparateVocals, TranscribeVocals, AlignLyrics, LabelSections)
MODELS = ("separator", "asr", "verifier")  # what the stages load
DECISIVE_SETTINGS = ("separator_overlap", "separator_precision", "accompaniment_share")  # of a profile, in cleaning


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

    def locate_models(self, languages: Iterable[str]) -> "CleanSettings":
        """Return the settings with absolute paths for all models, downloading what is missing, before any work.

        Args:
            languages: ISO 639-1 codes of the songs, as far as they are known: their aligners are looked for as well.

        Raises:
            ModelNotFoundError: the first model that cannot be had.
        """
        has_one_aligner = self.profile.aligner not in AUTOMATIC
        profile = locate_models(self.profile, (*MODELS, "aligner") if has_one_aligner else MODELS)
        self.check_aligners(languages)
        return replace(self, profile=profile)

    def check_aligners(self, languages: Iterable[str]) -> None:
        """Look for the aligners of more languages.

        Raises:
            ModelNotFoundError: one cannot be had.
        """
        check_aligners(self.profile.aligner, {self.language} if self.language != "auto" else set(languages))

    def facts(self) -> dict[str, Any]:
        """Return what decides a cleaned song: settings, the contents of models, stage versions.

        Where models lie, how many windows run together and what only extraction reads are no part of it: another
        machine with the same models counts the same songs as finished.
        """
        profile = self.profile
        settings = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "profile"}
        settings |= {name: getattr(profile, name) for name in DECISIVE_SETTINGS}
        models = {stage: fingerprint_model(profile.model_path(stage), stage) for stage in MODELS}
        models["aligner"] = check_aligner(profile.aligner, self.language)
        return {"settings": settings, "models": models, "stages": {s.name: s.version for s in STAGES}}

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
                    model_path=self.profile.model_path("separator"),
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
                    model_path=self.profile.model_path("asr"), device=device, threads=threads, language=self.language
                )
            ),
            AlignLyrics(
                AlignLyrics.Config(
                    model_path=self.profile.model_path("verifier"),
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
    if source.hint:
        song.warnings.append(f"lyrics: {source.hint}")
    try:
        read = read_text(lyrics_bytes(source), source.language)
        song.lyrics_text = read.text
        song.warnings += read.warnings
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
    else:
        remove_timed_text(out, song.song_id)  # of an earlier run that kept it
    if keep_vocals and song.vocals is not None:
        path = out / "vocals" / f"{stem}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, song.vocals.T, song.sample_rate, subtype="PCM_16")
    write_record(out, {"song_id": song.song_id, "fingerprint": fingerprint, "row": row, "seconds": seconds or {}})
    return row
