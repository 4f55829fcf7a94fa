"""Targets: shards, indexes and weights."""

import io
from functools import cache
from unittest import mock

import numpy as np
import pyarrow.parquet as pq
import torch
from safetensors.torch import save

from model.weights.reference_weights import WeightsError, read_weights
from model.weights.weights_file import CheckpointError, read_header, read_tensors
from pipeline.model_files.errors import ModelFileError
from pipeline.model_files.tensors import read_safetensors, read_torch_file
from shards.index import read_index
from shards.metadata import check_metadata, decode_metadata, encode_metadata
from shards.npy import decode_array, encode_array
from shards.parquet_pages import read_pages
from shards.reader import walk_shard
from shards.sample import Sample
from shards.schema import ARRAY_FIELDS, CODEBOOK_SIZE, ShardError
from shards.tensor_pickle import PickleError, count_tensor_bytes
from shards.writer import make_key, write_shard

from .target import BytesSource, Target, in_file, scratch

_STORAGES = {"0": 24, "1": 16, "2": 8}  # bytes of the members that the seeds' pickles name


def sample(name: str = "a") -> Sample:
    """Return the shortest song that a shard may hold."""
    spans = {"start_s": 0.0, "end_s": 0.08, "start_frame": 0, "end_frame": 2}
    metadata = {
        "schema_version": 1, "song_id": name, "language": "en", "duration_s": 0.08, "num_frames": 2,
        "lyrics_source": "clean", "sections": [{"label": "verse", **spans}],
        "lines": [{"text": "la", "section_index": 0, "phoneme_ids": [1, 2], **spans}],
        "words": [{"text": "la", "line": 0, **spans}],
        "songbloom_lyrics": "[verse] la.", "prompt_start_frames": [0], "metrics": {},
        "provenance": {"sha256": "0" * 64},
    }  # fmt: skip
    return Sample(
        key=make_key(name),
        metadata=metadata,
        semantic_tokens=np.zeros(2, np.uint16),
        latents=np.zeros((2, 1), np.float16),
        latents_std=np.zeros((2, 1), np.float16),
        prompts=np.zeros((1, 250, 1), np.float16),
    )


def _shards() -> list[bytes]:
    found = []
    for names in ("a", "ab"):
        write_shard(scratch() / names / "train" / "000000.tar", [sample(name) for name in names])
        found.append((scratch() / names / "train" / "000000.tar").read_bytes())
    return found


def _read_shard(data: bytes) -> None:
    for raw in walk_shard(BytesSource(data), "train/000000.tar"):
        raw.decode("train/000000.tar: sample", CODEBOOK_SIZE)


def _read_arrays(data: bytes) -> None:
    for field in ARRAY_FIELDS:
        try:
            decode_array(np.frombuffer(data, np.uint8), field, "sample")
        except ShardError:
            continue


@cache
def dataset() -> dict[str, bytes]:
    """Return the files of a dataset of two songs, as extraction writes them."""
    from tests.jobs import crash_extraction

    folder = scratch() / "dataset"
    songs = crash_extraction.make_songs(scratch() / "raw")[:2]
    with mock.patch.object(crash_extraction, "ENCODE_S", 0.0):
        crash_extraction.run(songs, folder, 0, _patch)
    mock.patch.stopall()
    return {name: (folder / name).read_bytes() for name in ("index.parquet", "dataset.json")}


def _patch(owner: object, name: str, value: object) -> None:
    mock.patch.object(owner, name, value).start()


def _pages() -> list[bytes]:
    data = dataset()["index.parquet"]
    group = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(0)
    found = []
    for number in range(group.num_columns):
        column = group.column(number)
        start = column.dictionary_page_offset if column.has_dictionary_page else column.data_page_offset
        found.append(data[start : start + column.total_compressed_size])
    return found


def _torch_files() -> list[bytes]:
    found = []
    for content in (
        {"a": torch.zeros(3, 2), "b": torch.ones(4)},
        {
            "state_dict": {"model.a": torch.zeros(2, dtype=torch.bfloat16)},
            "epoch": 3,
            "names": ["x", None, (1.5, True)],
        },
    ):
        stream = io.BytesIO()
        torch.save(content, stream)
        found.append(stream.getvalue())
    return found


def _pickles() -> list[bytes]:
    reader = torch._C.PyTorchFileReader
    return [reader(io.BytesIO(data)).get_record("data.pkl") for data in _torch_files()]


def _read_saved(data: bytes) -> None:
    path = scratch() / "saved.safetensors"
    path.write_bytes(data)
    read_header(path)
    for _, tensor in read_tensors(path):
        tensor.isfinite().all()


def _safetensors() -> list[bytes]:
    tensors = {"a": torch.zeros(3, 2), "b": torch.ones(4, dtype=torch.bfloat16)}
    return [save(tensors, {"config": "{}"}), save({"x": torch.zeros(0)}), save({"i": torch.arange(3)})]


FILE_TARGETS = (
    Target(
        name="shard",
        run=_read_shard,
        errors=(ShardError,),
        seeds=_shards,
        modules=("shards.reader", "shards.tar", "shards.npy", "shards.sample", "shards.metadata"),
        max_bytes=1 << 14,
    ),
    Target(name="npy", run=_read_arrays, errors=(), modules=("shards.npy",), max_bytes=1 << 10,
           seeds=lambda: [encode_array(getattr(sample(), field.name), field)[:700] for field in ARRAY_FIELDS]),
    Target(
        name="metadata",
        run=lambda data: check_metadata(decode_metadata(data, "sample"), "sample"),
        errors=(ShardError,),
        seeds=lambda: [encode_metadata(sample().metadata, "sample")],
        modules=("shards.metadata",),
    ),
    Target(
        name="index",
        run=in_file("i/index.parquet", lambda path: list(read_index(path.parent))),
        errors=(ShardError,),
        seeds=lambda: [dataset()["index.parquet"]],
        modules=("shards.index", "shards.index_file", "shards.parquet_pages"),
        max_bytes=1 << 14,
    ),
    Target(
        name="parquet.pages",
        run=lambda data: list(read_pages(data)),
        errors=(ShardError,),
        seeds=_pages,
        modules=("shards.parquet_pages",),
    ),
    Target(
        name="safetensors",
        run=in_file("model.safetensors", lambda path: read_safetensors(path, "weights")),
        errors=(ModelFileError,),
        seeds=_safetensors,
        modules=("shards.tensor_files", "pipeline.model_files.tensors"),
    ),
    Target(
        name="safetensors.saved",
        run=_read_saved,
        errors=(CheckpointError,),
        seeds=_safetensors,
        modules=("shards.tensor_files", "model.weights.weights_file"),
    ),
    Target(
        name="checkpoint.pt",
        run=in_file("model.pt", lambda path: read_torch_file(path, "weights")),
        errors=(ModelFileError,),
        seeds=_torch_files,
        modules=("shards.tensor_files", "shards.tensor_pickle", "pipeline.model_files.tensors"),
    ),
    Target(
        name="released.pt",
        run=in_file("released.pt", read_weights),
        errors=(WeightsError,),
        seeds=_torch_files,
        modules=("shards.tensor_files", "shards.tensor_pickle", "model.weights.reference_weights"),
    ),
    Target(
        name="tensor.pickle",
        run=lambda data: count_tensor_bytes(data, _STORAGES, ()),
        errors=(PickleError,),
        seeds=_pickles,
        modules=("shards.tensor_pickle",),
    ),
)  # fmt: skip
