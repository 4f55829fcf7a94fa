"""What is fuzzed: every parser of the project that reads bytes of somebody else, with its documented errors.

Anything else that leaves a parser is a fault, and so is an input that takes `MAX_SECONDS`, or a process that grows
beyond `MAX_MEMORY_BYTES`.
"""

import io
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
import torch
from safetensors.torch import save

from model.config import ConfigError
from model.reference_weights import WeightsError, read_weights
from model.strict_yaml import read_yaml
from pipeline.audio import AudioDecodeError, decode_audio
from pipeline.inputs import InputError, find_songs
from pipeline.lyric_formats.document import Changes
from pipeline.lyric_formats.formats import FORMATS, guess_format
from pipeline.lyrics import parse_lyrics
from pipeline.lyrics_encoding import LyricsError, decode_lyrics
from pipeline.model_files.config_files import read_config
from pipeline.model_files.errors import ModelFileError
from pipeline.model_files.tensors import read_safetensors, read_torch_file
from shards.dataset_info import read_dataset_info
from shards.index import read_index
from shards.reader import ShardReader
from shards.sample import Sample
from shards.schema import ShardError
from shards.writer import make_key, write_shard

MAX_SECONDS = 5.0
MAX_MEMORY_BYTES = 1 << 30

LYRICS = """[ti:A song]
[00:01.00]<00:01.00>First <00:01.50>line (x2)
[Verse 1: Somebody]
Second line / ligne deux
第三行
www.example.com
{"a": 1}
1
00:00:01,000 --> 00:00:02,000
caption
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """One parser."""

    name: str
    run: Callable[[bytes], object]
    errors: tuple[type[Exception], ...]  # that it is documented to raise
    seeds: Callable[[], list[bytes]]
    max_bytes: int = 1 << 16
    suffixes: tuple[str, ...] = field(default=("",))


@cache
def scratch() -> Path:
    """Return a folder of this process for parsers that read files."""
    return Path(tempfile.mkdtemp(prefix="fuzz-"))


def _in_file(name: str, read: Callable[[Path], object]) -> Callable[[bytes], object]:
    def run(data: bytes) -> object:
        path = scratch() / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return read(path)

    return run


def _read_lyrics(data: bytes) -> None:
    text = decode_lyrics(data)
    text.encode()  # what is read can be written
    parse_lyrics(text)


def _read_formats(data: bytes) -> None:
    text = decode_lyrics(data)
    for form in {guess_format(text), "songbloom", "songgeneration", "muse"}:
        try:
            FORMATS[form].read(text, Changes())
        except LyricsError:
            continue


def _sample() -> Sample:
    spans = {"start_s": 0.0, "end_s": 20.0, "start_frame": 0, "end_frame": 500}
    metadata = {
        "schema_version": 1, "song_id": "a", "language": "en", "duration_s": 20.0, "num_frames": 500,
        "lyrics_source": "clean", "lines": [], "words": [], "sections": [{"label": "inst", **spans}],
        "songbloom_lyrics": "", "prompt_start_frames": [0], "metrics": {}, "provenance": {"sha256": "0" * 64},
    }  # fmt: skip
    return Sample(
        key=make_key("a"),
        metadata=metadata,
        semantic_tokens=np.zeros(500, np.uint16),
        latents=np.zeros((500, 2), np.float16),
        latents_std=np.zeros((500, 2), np.float16),
        prompts=np.zeros((1, 250, 2), np.float16),
    )


def _shard() -> bytes:
    write_shard(scratch() / "seed" / "train" / "000000.tar", [_sample()])
    return (scratch() / "seed" / "train" / "000000.tar").read_bytes()


def _dataset(name: str) -> list[bytes]:
    from tests.jobs import crash_extraction

    folder = scratch() / "dataset"
    if not folder.exists():
        crash_extraction.run(crash_extraction.make_songs(scratch() / "raw"), folder, 0)
    return [(folder / name).read_bytes()]


def _audio() -> list[bytes]:
    tone = 0.1 * np.sin(np.arange(4_000) / 9.0)
    seeds = []
    for kind in ("WAV", "FLAC", "OGG", "MP3", "AIFF", "AU", "CAF", "W64"):
        stream = io.BytesIO()
        soundfile.write(stream, np.stack([tone, tone], 1), 16_000, format=kind)
        seeds.append(stream.getvalue())
    return [*seeds, b"ffconcat version 1.0\nfile a.mp3\n", b"#EXTM3U\n#EXT-X-TARGETDURATION:1\na.ts\n"]


def _parquet() -> list[bytes]:
    stream = io.BytesIO()
    pq.write_table(pa.table({"audio": ["a.mp3", "b.mp3"], "lyrics": ["la", "lo"], "language": ["en", ""]}), stream)
    return [stream.getvalue()]


def _torch_file() -> list[bytes]:
    stream = io.BytesIO()
    torch.save({"state_dict": {"a.weight": torch.zeros(3, 2), "b": torch.ones(4)}}, stream)
    return [stream.getvalue()]


TARGETS = {
    target.name: target
    for target in (
        Target(
            name="lyrics",
            run=_read_lyrics,
            errors=(LyricsError,),
            seeds=lambda: [LYRICS.encode(), LYRICS.encode("utf-16"), "歌\x00詞".encode("gbk"), b"\x88\x62"],
        ),
        Target(
            name="formats",
            run=_read_formats,
            errors=(LyricsError,),
            seeds=lambda: [
                LYRICS.encode(),
                b"[intro] [intro] , [verse] One line. Two , [chorus] Three",
                b'{"idx": "a", "gt_lyric": "[intro-short] ; [verse] One. Two. ;"}\n',
                b'{"messages": [{"role": "user", "content": "x"}]}\n',
            ],
        ),
        Target(
            name="manifest.csv",
            run=_in_file("m/songs.csv", find_songs),
            errors=(InputError,),
            seeds=lambda: [b'audio,lyrics,language\na.mp3,la,en\nb.mp3,"l\na",\n'],
        ),
        Target(
            name="manifest.jsonl",
            run=_in_file("m/songs.jsonl", find_songs),
            errors=(InputError,),
            seeds=lambda: [b'{"audio": "a.mp3", "lyrics": "la", "title": "t"}\n{"audio": "b/c.mp3"}\n'],
        ),
        Target(
            name="manifest.parquet",
            run=_in_file("m/songs.parquet", find_songs),
            errors=(InputError,),
            seeds=_parquet,
        ),
        Target(
            name="audio",
            run=_in_file("song.mp3", lambda path: decode_audio(path, max_duration_s=60.0)),
            errors=(AudioDecodeError,),
            seeds=_audio,
        ),
        Target(
            name="shard",
            run=_in_file(
                "s/train/000000.tar", lambda _: list(ShardReader(scratch() / "s").iterate("train/000000.tar"))
            ),
            errors=(ShardError,),
            seeds=lambda: [_shard()],
            max_bytes=1 << 17,
        ),
        Target(
            name="index",
            run=_in_file("i/index.parquet", lambda _: list(read_index(scratch() / "i"))),
            errors=(ShardError,),
            seeds=lambda: _dataset("index.parquet"),
        ),
        Target(
            name="dataset.json",
            run=_in_file("d/dataset.json", lambda _: read_dataset_info(scratch() / "d")),
            errors=(ShardError,),
            seeds=lambda: _dataset("dataset.json"),
        ),
        Target(
            name="config.yaml",
            run=_in_file("config.yaml", read_yaml),
            errors=(ConfigError,),
            seeds=lambda: [b"model:\n  dim: 1.0e-4\n  list: [1, a, 2:3]\nx: &a {b: *a}\n<<: {c: d}\n"],
        ),
        Target(
            name="config.json",
            run=_in_file("config.json", read_config),
            errors=(ModelFileError,),
            seeds=lambda: [json.dumps({"a": [1, None, {"b": 1e9}]}).encode()],
        ),
        Target(
            name="safetensors",
            run=_in_file("model.safetensors", lambda path: read_safetensors(path, "weights")),
            errors=(ModelFileError,),
            seeds=lambda: [save({"a": torch.zeros(3, 2), "b": torch.ones(4)})],
        ),
        Target(
            name="checkpoint.pt",
            run=_in_file("model.pt", lambda path: read_torch_file(path, "weights")),
            errors=(ModelFileError,),
            seeds=_torch_file,
        ),
        Target(
            name="released.pt",
            run=_in_file("released.pt", read_weights),
            errors=(WeightsError,),
            seeds=_torch_file,
        ),
    )
}
