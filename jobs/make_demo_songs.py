"""Render the songs in jobs/demo_songs anew: the same songs, lyrics and truth every time.

Needs the extra `miniatures`, the voice that sings.
"""

import argparse
from pathlib import Path
from typing import Any

from jobs.command import EXIT_FINE, run_command
from pipeline.miniatures.songs import bad_lyrics as bad
from pipeline.miniatures.songs.bad_lyrics import NoisyLine
from pipeline.miniatures.songs.singing import SINGERS
from pipeline.miniatures.songs.song_files import write_song
from pipeline.miniatures.songs.songs import SongSpec, SyntheticSong, make_song

FOLDER = Path(__file__).resolve().parent / "demo_songs"
SHORT = (("intro", 1), ("verse", 4), ("chorus", 4), ("outro", 1))
REPEATED = (("intro", 1), ("verse", 4), ("chorus", 4), ("chorus", 4), ("outro", 1))
SPECS = {
    "01_clean": SongSpec(
        seed=109, form=SHORT, bpm=88, tonic=2, is_minor=False, style="folk", singer=SINGERS[1], vocal_db=6.0
    ),
    "02_karaoke_site": SongSpec(
        seed=112, form=SHORT, bpm=88, tonic=7, is_minor=True, style="lofi", singer=SINGERS[0], vocal_db=6.0
    ),
    "03_fan_page": SongSpec(
        seed=107, form=REPEATED, bpm=112, tonic=0, is_minor=False, style="pop", singer=SINGERS[1], vocal_db=6.0
    ),
    "04_wrong_song": SongSpec(
        seed=146, form=SHORT, bpm=90, tonic=9, is_minor=True, style="synth", singer=SINGERS[2], vocal_db=6.0
    ),
}


def spoil(name: str, songs: dict[str, SyntheticSong]) -> tuple[list[NoisyLine], str, str]:
    """Return a song's lyrics as found, what was done to them, and what cleaning is expected to make of them."""
    song = songs[name]
    lines = bad.write_clean(song)
    if name == "01_clean":
        return lines, "clean", "accept_unchanged"
    if name == "02_karaoke_site":
        first = song.lines[0]["text"].split()
        lines = bad.replace_word(lines, max(first, key=len), "elephant")
        lines = bad.add_metadata(bad.restyle_headers(lines, "{name} {number}:"), [], ["Lyrics: A. Nonesuch"])
        lines = bad.add_stamps(lines, song)
        tags = ["[ar:The Paper Boats]", "[by:karaoke_fan]", "Found at https://lyrics.example/the-paper-boats"]
        return bad.add_metadata(lines, tags, []), "corrupted", "repair"
    if name == "03_fan_page":
        lines = bad.shorten_repeats(lines)
        lines = bad.restyle_headers(lines, "-- {name} --")
        lines = bad.insert_unsung(lines, "A hundred marching elephants applaud the violin", after=0)
        return bad.add_metadata(lines, ["Song by The Glass Umbrellas"], ["Thanks for reading!"]), "corrupted", "repair"
    return bad.claim_foreign(bad.write_clean(songs["01_clean"])), "replaced", "reject"


def main() -> tuple[dict[str, Any], int]:
    """Write all songs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=FOLDER, help="where to write (default: jobs/demo_songs)")
    out: Path = parser.parse_args().out
    songs = {name: make_song(spec) for name, spec in SPECS.items()}
    for name, song in songs.items():
        lines, mode, expected = spoil(name, songs)
        write_song(out / name, song, lines, mode=mode, expected=expected)
    sizes = {name: (out / name / "mixture.opus").stat().st_size for name in songs}
    return {"songs": len(songs), "bytes": sizes}, EXIT_FINE


if __name__ == "__main__":
    run_command(main)
