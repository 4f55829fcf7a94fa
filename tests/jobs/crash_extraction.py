"""Kills the extraction with SIGKILL at random moments, in a process that has imported everything once.

    python tests/jobs/crash_extraction.py FOLDER --kills 30

The real `extract` with a made-up encoder and no Ray, so that a run takes a second: what is killed is the writing of
samples, shards, facts and index. The last line of output is one JSON object; exit code 0 if the bytes are those of
a run that nobody disturbed. `kill_job.py extract` beside this does the same to the whole command.
"""

import argparse
import hashlib
import json
import logging
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jobs import extract_tokens
from jobs.cluster import Cluster
from jobs.run_options import RunOptions
from pipeline.audio.decode import hash_file
from pipeline.encoding.encode_song import SongToEncode
from pipeline.model_files.profiles import PROFILES
from shards.sample import Sample
from shards.writer import make_key

NUM_SONGS = 24
CHANNELS = 8
SHARD_BYTES = 1 << 18  # one song each
ENCODE_S = 0.01


class TinyEncoder:
    """Makes a song that is a function of its id."""

    def encode(self, song: SongToEncode) -> Sample:
        generator = np.random.default_rng(list(song.key.encode()))
        time.sleep(ENCODE_S * generator.uniform())
        num_frames = int(song.row["duration_s"] * 25)
        spans = {"start_s": 0.0, "end_s": num_frames / 25, "start_frame": 0, "end_frame": num_frames}
        metadata = {
            "schema_version": 1, "song_id": song.row["song_id"], "language": "en", "duration_s": num_frames / 25,
            "num_frames": num_frames, "lyrics_source": "clean", "lines": [], "words": [],
            "sections": [{"label": "inst", **spans}], "songbloom_lyrics": "", "prompt_start_frames": [0], "metrics": {},
            "provenance": {"sha256": song.row["sha256"], "fingerprint": song.fingerprint, "models": {}},
        }  # fmt: skip
        return Sample(
            key=song.key,
            metadata=metadata,
            semantic_tokens=generator.integers(0, 16_384, num_frames).astype(np.uint16),
            latents=generator.normal(size=(num_frames, CHANNELS)).astype(np.float16),
            latents_std=generator.uniform(size=(num_frames, CHANNELS)).astype(np.float16),
            prompts=generator.normal(size=(1, 250, CHANNELS)).astype(np.float16),
        )


def make_songs(folder: Path) -> list[SongToEncode]:
    songs = []
    for number in range(NUM_SONGS):
        path = folder / f"{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d" % number)
        row = {"song_id": f"song {number}", "sha256": hash_file(path), "duration_s": 20.0 + number}
        songs.append(
            SongToEncode(
                key=make_key(row["song_id"]), path=path, lyrics_source="clean", row=row, fingerprint=f"print {number}"
            )
        )
    return songs


def run(songs: list[SongToEncode], out: Path, seed: int, patch: Callable[..., None] = setattr) -> None:
    """Run one extraction to its end, in this process, songs in an order drawn from `seed`."""

    def stream(rows: list[dict[str, Any]], *_: object) -> Iterator[dict[str, Any]]:
        worker = extract_tokens.EncodeWorker.__new__(extract_tokens.EncodeWorker)
        worker._encoder, worker._progress = TinyEncoder(), out / extract_tokens.PROGRESS
        for row in random.Random(seed).sample(rows, len(rows)):
            yield worker(row)

    patch(extract_tokens, "stream", stream)
    patch(extract_tokens, "connect", lambda *_: Cluster(1, 0))
    patch(extract_tokens, "describe_models", lambda *_: {"vae": "tiny"})
    with extract_tokens.lock(out):
        extract_tokens.extract(
            songs, out, PROFILES["miniature"], val_fraction=0.2, shard_bytes=SHARD_BYTES, options=RunOptions()
        )


def fork(songs: list[SongToEncode], out: Path, seed: int) -> int:
    """Start an extraction in a process of its own and return its id."""
    child = os.fork()
    if child == 0:
        try:
            run(songs, out, seed)
        finally:
            os._exit(0 if (out / "index.parquet").exists() else 1)
    return child


def digests(folder: Path) -> dict[str, str]:
    files = [*sorted(folder.glob("*/*.tar")), folder / "index.parquet", folder / "dataset.json"]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.disable()
    generator = random.Random(options.seed)
    songs = make_songs(options.folder / "raw")
    started = time.monotonic()
    os.waitpid(fork(songs, options.folder / "whole", 0), 0)
    whole_s = time.monotonic() - started
    expected = digests(options.folder / "whole")
    num_kills, num_finished, files_at_kill = 0, 0, []
    while num_kills < options.kills:
        out = options.folder / f"killed-{num_finished}"
        child = fork(songs, out, generator.randrange(1000))
        time.sleep(generator.uniform(0, whole_s / 3))
        if os.waitpid(child, os.WNOHANG) == (0, 0):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            num_kills += 1
            files_at_kill.append(len(list(out.glob("*/*.tar"))))
        else:
            assert digests(out) == expected, "a run that was killed and restarted has other bytes"
            num_finished += 1
    out = options.folder / f"killed-{num_finished}"
    os.waitpid(fork(songs, out, 1), 0)
    leftovers = [str(path) for path in out.rglob("*.tmp")]
    is_same = digests(out) == expected
    result = {
        "ok": is_same and not leftovers, "kills": num_kills, "datasets_finished": num_finished + 1,
        "files": len(expected), "undisturbed_s": round(whole_s, 2), "shards_at_kill": files_at_kill,
        "temporary_files_left": leftovers,
    }  # fmt: skip
    sys.stdout.write(json.dumps(result) + "\n")
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
