"""First pass over the inputs: usable audio or not, finished already or not, the same recording as another or not."""

import itertools
import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jobs.cluster import Row
from jobs.failures import Failure, attempt
from pipeline.audio.decode import AudioDecodeError, hash_file, require_regular_file
from pipeline.audio.landmarks import find_near_duplicates
from pipeline.catalogue.inputs import SongInput
from pipeline.catalogue.tags import fill_from_tags, read_tags
from pipeline.cleaning.check_audio import CheckAudio
from pipeline.cleaning.checked_audio import CheckedAudio, check_file
from pipeline.cleaning.clean_song import CleanSettings, finish_song, lyrics_bytes, song_fingerprint, start_song
from pipeline.cleaning.records import read_record, write_record
from pipeline.lyrics.encoding import LyricsError, decode_lyrics
from pipeline.lyrics.language import identify_text
from pipeline.lyrics.line_text import split_words
from pipeline.lyrics.parse import ParsedLyrics, parse_lyrics
from pipeline.lyrics.sounds import sound_key
from pipeline.song import Drop, DroppedLine, Song
from pipeline.transcription.hallucinations import MAX_LETTERS_PER_S

logger = logging.getLogger(__name__)

# Of the word pairs of the poorer of two lyrics. Clean and noisy ones of a song at hand share 0.82 and more, those of
# different songs 0.11 at most (0.30 where lines of the other were mixed in).
MIN_SHARED_PAIRS = 0.4


@dataclass(frozen=True, slots=True)
class Survey:
    """Looks at one input: is it a file, which bytes, do the cheap checks pass, is it finished already?"""

    out: Path
    settings: CleanSettings
    settings_fingerprint: str

    def __call__(self, row: Row) -> Row:
        """Add what `_look` found out; or `quarantine`, or `failed`, with the reason."""
        source: SongInput = row["source"]
        try:
            if source.problem:
                raise AudioDecodeError(source.problem)
            found = attempt(lambda: self._look(source))
        except AudioDecodeError as error:
            return row | {"quarantine": str(error)}
        return row | ({"failed": found} if isinstance(found, Failure) else found)

    def _look(self, source: SongInput) -> Row:
        """Return what is known of the file: `source` with what its tags say, hash, checks, size of its lyrics."""
        require_regular_file(source.path)
        sha256 = hash_file(source.path)
        checked = check_file(self.out, source.path, sha256, self.settings.check())
        if not checked.unreadable:
            source = fill_from_tags(source, read_tags(source.path, source.language))
        text_language = ""
        try:
            lyrics = lyrics_bytes(source)
            text = decode_lyrics(lyrics, source.language)
            parsed = parse_lyrics(text, title=source.title, artist=source.artist, language=source.language)
            num_letters = sum(len(line.text) for line in parsed.lines)
            text_language = identify_text("\n".join(line.text for line in parsed.lines)) or parsed.language
        except LyricsError:  # start_song says so in the song's warnings
            lyrics, num_letters = b"unreadable", 0
        fingerprint = song_fingerprint(self.settings_fingerprint, sha256, source, lyrics)
        record = read_record(self.out, source.song_id)
        return {
            "source": source,
            "sha256": sha256,
            "fingerprint": fingerprint,
            "checked": checked,
            "num_letters": num_letters,
            "text_language": text_language,
            "finished": record is not None and record["fingerprint"] == fingerprint,
            "failed_before": record is not None and "failed" in record,
        }


def settle(out: Path, surveyed: Sequence[Row], settings: CleanSettings) -> tuple[list[Row], int]:
    """Write down what is decided without listening; return the rows that need work, and how many were finished.

    Unreadable files, songs that failed, songs that the cheap checks reject, copies of another song, and songs without
    any lyrics.
    """
    for row in surveyed:
        if row.get("quarantine"):
            quarantine(out, row)
        elif row.get("failed"):
            logger.warning("failed: %s: %s", row["source"].song_id, row["failed"].reason)
            record_failure(out, row["source"], row["failed"])
    readable = [row for row in surveyed if not row.get("quarantine") and not row.get("failed")]
    usable = [row for row in readable if not row["checked"].unreadable and not row["checked"].drop]
    originals = find_originals(usable)
    todo, num_finished = [], 0
    for row in readable:
        checked: CheckedAudio = row["checked"]
        if original := originals.get(row["source"].song_id):
            # The original may go away: the mark keeps this record from counting as finished.
            _reject(out, row, Drop("duplicate", original), f"{row['fingerprint']}-copy")
        elif row["finished"]:
            num_finished += 1
        elif checked.unreadable:
            quarantine(out, row | {"quarantine": checked.unreadable})
        elif drop := checked.drop or judge_lyrics(row["num_letters"], checked.duration_s, settings, row["source"].hint):
            _reject(out, row, drop, row["fingerprint"])
        else:
            todo.append(row)
    return todo, num_finished


def judge_lyrics(num_letters: int, duration_s: float, settings: CleanSettings, hint: str = "") -> Drop | None:
    """Return why lyrics of so many letters cannot be those of a song of this length, if they cannot.

    `hint` says where lyrics seem to lie that were not taken.
    """
    if not num_letters:
        detail = f"no line to sing in the given lyrics{f'; {hint}' if hint else ''}"
        return None if settings.lyrics_from_asr else Drop("no_lyrics", detail)
    if num_letters > MAX_LETTERS_PER_S * duration_s:
        return Drop("lyrics_mismatch", f"{num_letters} letters in {duration_s:.0f} s are more than anybody can sing")
    return None


def _have_one_text(one: Row, other: Row) -> bool:
    """Whether the lyrics of two files are those of one song; true where one has none."""
    pairs, other_pairs = _word_pairs(one), _word_pairs(other)
    return len(pairs & other_pairs) >= MIN_SHARED_PAIRS * min(len(pairs), len(other_pairs))


def _word_pairs(row: Row) -> set[tuple[str, str]]:
    """Return all words that follow each other in a line of the lyrics; read again, as few files sound like another."""
    lyrics = _given_lyrics(start_song(row["source"], row["sha256"]))
    words = [map(sound_key, split_words(line.text, "")) for line in lyrics.lines]
    return {pair for line in words for pair in itertools.pairwise(line)}


def _given_lyrics(song: Song) -> ParsedLyrics:
    return parse_lyrics(song.lyrics_text, title=song.title, artist=song.artist, language=song.language)


def find_originals(rows: Sequence[Row]) -> dict[str, str]:
    """Return for every copy what it is a copy of and how that is known.

    A file that sounds like another but has the lyrics of another song is no copy yet: it can be another song over the
    same accompaniment, and if not, listening to it shows that its lyrics are wrong.
    Of several files that hold one recording the best is kept: one with lyrics, then with the fewest warnings, then of
    the highest bandwidth (in whole kHz), then the longest (in whole seconds), then the first by song_id.
    """
    shares = find_near_duplicates({row["source"].song_id: row["checked"].landmarks for row in rows})
    near: dict[str, dict[str, float]] = defaultdict(dict)
    for (first, second), share in shares.items():
        near[first][second] = near[second][first] = share
    kept: dict[str, Row] = {}
    kept_bytes: dict[str, str] = {}
    originals: dict[str, str] = {}
    for row in sorted(rows, key=_rank):
        song_id = row["source"].song_id
        alike = {other: n for other, n in near[song_id].items() if other in kept and _have_one_text(row, kept[other])}
        if same := kept_bytes.get(row["sha256"]):
            originals[song_id] = f"same bytes as {same}"
        elif alike:
            other = max(sorted(alike), key=lambda name: alike[name])
            originals[song_id] = f"same recording as {other} ({alike[other]:.0%} of the landmarks)"
        else:
            kept[song_id] = row
            kept_bytes[row["sha256"]] = song_id
    return originals


def _rank(row: Row) -> tuple[Any, ...]:
    checked: CheckedAudio = row["checked"]
    bandwidth_hz = checked.metrics["cutoff_hz"] or checked.sample_rate / 2
    quality = len(checked.warnings), -round(bandwidth_hz / 1000), -round(checked.duration_s)
    return not row["num_letters"], *quality, row["source"].song_id


def _reject(out: Path, row: Row, drop: Drop, fingerprint: str) -> None:
    song = start_song(row["source"], row["sha256"])
    row["checked"].fill(song)
    if drop.reason == "no_lyrics":
        song.dropped = [DroppedLine(line.text, line.reason) for line in _given_lyrics(song).dropped]
    finish_song(out, song, drop, fingerprint, seconds={CheckAudio.name: row["checked"].seconds})


def quarantine(out: Path, row: Row) -> None:
    """Record an input that holds no usable audio."""
    source: SongInput = row["source"]
    entry = {"song_id": source.song_id, "audio": source.audio, "reason": row["quarantine"]}
    write_record(out, {"song_id": source.song_id, "fingerprint": row.get("fingerprint", ""), "quarantine": entry})


def record_failure(out: Path, source: SongInput, failure: Failure) -> None:
    """Record a song that could not be computed: it counts as unfinished, and the next run tries it again."""
    entry = {"song_id": source.song_id, "audio": source.audio, **asdict(failure)}
    write_record(out, {"song_id": source.song_id, "fingerprint": "", "failed": entry})
