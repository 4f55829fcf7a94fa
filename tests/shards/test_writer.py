"""Writing: keys, determinism, what is refused, and that a shard is whole or not there."""

import hashlib
import json
import re
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.index import IndexRow
from shards.reader import Sample
from shards.schema import FIELDS, MAX_KEY_BYTES, ShardError
from shards.writer import encode_sample, make_key, write_shard

MakeSample = Callable[..., Sample]


@given(st.text(min_size=1, max_size=300))
def test_key_is_a_plain_short_name(song_id: str) -> None:
    key = make_key(song_id)
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", key)
    assert len(key.encode()) <= MAX_KEY_BYTES
    assert key == make_key(song_id)


@given(st.text(min_size=1, max_size=20), st.text(min_size=1, max_size=20))
def test_other_song_has_another_key(first: str, second: str) -> None:
    assert (make_key(first) == make_key(second)) == (first == second)


@pytest.mark.parametrize(
    ("song_id", "readable"),
    [
        ("Album 1/01. Café.flac", "Album-1-01-Cafe-flac"),
        ("../../etc/passwd", "etc-passwd"),
        ("风", "song"),
        ("x" * 500, "x" * (MAX_KEY_BYTES - 17)),
    ],
)
def test_key_starts_with_what_people_can_read(song_id: str, readable: str) -> None:
    assert make_key(song_id).rpartition("-")[0] == readable


def test_song_without_id_has_no_key() -> None:
    with pytest.raises(ShardError, match="without an id"):
        make_key("")


def test_same_samples_give_the_same_bytes_whatever_their_memory(tmp_path: Path, make_sample: MakeSample) -> None:
    sample, other = make_sample(), make_sample()
    other.metadata = json.loads(json.dumps(dict(reversed(other.metadata.items()))))
    other.latents = np.asfortranarray(other.latents)
    other.semantic_tokens = other.semantic_tokens.astype(">u2")
    rows = write_shard(tmp_path / "a" / "train" / "0.tar", [sample])
    assert write_shard(tmp_path / "b" / "train" / "0.tar", iter([other])) == rows
    assert (tmp_path / "a/train/0.tar").read_bytes() == (tmp_path / "b/train/0.tar").read_bytes()


def test_bytes_are_those_of_schema_version_1(tmp_path: Path, make_sample: MakeSample) -> None:
    """A change here is a new schema version: shards that exist would no longer be made again byte for byte."""
    sample = make_sample()
    sample.latents[:] = 0.5
    sample.latents_std[:] = 0.25
    sample.prompts[:] = -1.0
    sample.semantic_tokens[:] = np.arange(600)
    (row,) = write_shard(tmp_path / "train" / "0.tar", [sample])
    assert row.shard_sha256 == "fb003ce4301e855381245b7f82055546524a96065fb1f2e4eed6ed800320a65e"


def test_rows_say_where_members_lie(tmp_path: Path, make_sample: MakeSample) -> None:
    samples = [make_sample("a"), make_sample("b", 700)]
    path = tmp_path / "val" / "7.tar"
    rows = write_shard(path, samples)
    data = path.read_bytes()
    with tarfile.open(path) as tar:
        members = iter(tar.getmembers())
    for row, sample in zip(rows, samples, strict=True):
        encoded = encode_sample(sample.metadata, sample.arrays)
        for field, (offset, num_bytes), (suffix, content) in zip(FIELDS, row.members, encoded, strict=True):
            member = next(members)
            assert (member.name, suffix) == (f"{sample.key}.{suffix}", field.suffix)
            assert (member.offset_data, member.size) == (offset, num_bytes)
            assert data[offset : offset + num_bytes] == content
        assert (row.key, row.num_frames, row.split, row.shard) == (sample.key, sample.num_frames, "val", "val/7.tar")
        assert (row.shard_bytes, row.shard_sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert next(members, None) is None


def test_one_sample_is_in_memory_at_a_time(tmp_path: Path, make_sample: MakeSample) -> None:
    sizes = []

    def stream() -> Iterator[Sample]:
        for number in range(3):
            yield make_sample(str(number))
            (temporary,) = (tmp_path / "train").glob(".*")
            sizes.append(temporary.stat().st_size)

    rows = write_shard(tmp_path / "train" / "0.tar", stream())
    # Whatever a file buffer holds back, each song is on its way to the disk before the next one is asked for.
    assert all(size > row.start for size, row in zip(sizes, rows, strict=True))


def refuse(tmp_path: Path, samples: list[Sample], message: str) -> None:
    with pytest.raises(ShardError, match=message):
        write_shard(tmp_path / "train" / "0.tar", samples)
    assert list((tmp_path / "train").iterdir()) == []  # neither the shard nor a part of it


def test_duplicate_key_is_refused(tmp_path: Path, make_sample: MakeSample) -> None:
    refuse(tmp_path, [make_sample("a"), make_sample("a")], "key 'a-.*' comes twice")


def test_changing_channels_are_refused(tmp_path: Path, make_sample: MakeSample) -> None:
    refuse(tmp_path, [make_sample("a"), make_sample("b", channels=16)], "16 latent channels, expected 8")


def test_empty_shard_is_refused(tmp_path: Path) -> None:
    refuse(tmp_path, [], "no samples")


@pytest.mark.parametrize("path", ["0.tar", "test/0.tar", "train/0.zip", "train/a b.tar", "train/.tar"])
def test_shard_of_another_name_is_refused(tmp_path: Path, make_sample: MakeSample, path: str) -> None:
    with pytest.raises(ShardError, match=re.escape("expected train or val")):
        write_shard(tmp_path / path, [make_sample()])


def put(name: str, value: float) -> Callable[[Sample], None]:
    def change(sample: Sample) -> None:
        getattr(sample, name).flat[5] = value

    return change


def replace(name: str, make_array: Callable[[Any], Any]) -> Callable[[Sample], None]:
    return lambda sample: setattr(sample, name, make_array(getattr(sample, name)))


BROKEN: dict[str, tuple[Callable[[Sample], None], str]] = {
    "id": (put("semantic_tokens", 16_384), "semantic.npy holds id 16384, expected below 16384"),
    "nan": (put("latents", np.nan), "latent.npy holds a value that is infinite or not a number"),
    "infinite": (put("prompts", np.inf), "prompts.npy holds a value that is infinite"),
    "negative": (put("latents_std", -0.5), "latent_std.npy holds a negative"),
    "short latents": (replace("latents", lambda x: x[:-1]), r"latent.npy has T=599, expected 600 \(length of sem"),
    "short std": (replace("latents_std", lambda x: x[:-1]), "latent_std.npy has T=599"),
    "channels": (replace("prompts", lambda x: x[:, :, :-1]), "prompts.npy has C=7, expected 8"),
    "prompt length": (replace("prompts", lambda x: x[:, :-1]), "prompts.npy has P=249, expected 250 to 250"),
    "prompt count": (replace("prompts", lambda x: x[:1]), "prompts.npy has K=1, expected 2"),
    "no frames": (replace("semantic_tokens", lambda x: x[:0]), "semantic.npy has T=0"),
    "axes": (replace("latents", lambda x: x[None]), "latent.npy has shape"),
    "token dtype": (replace("semantic_tokens", lambda x: x.astype(np.int64)), "semantic.npy is int64, expected uint16"),
    "latent dtype": (replace("latents", lambda x: x.astype(np.float32)), "latent.npy is float32, expected float16"),
    "list": (replace("latents", lambda x: x.tolist()), "latent.npy is list"),
    "key": (lambda sample: setattr(sample, "key", "a.b"), "not a key"),
    "num_frames": (lambda sample: sample.metadata.update(num_frames=601), "metadata has num_frames=601, expected 600"),
    "metadata": (lambda sample: sample.metadata.pop("words"), ".*missing required field `words`"),
    "metrics": (lambda sample: sample.metadata["metrics"].update(x=np.nan), "metadata cannot be written"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_sample_is_refused_by_name(tmp_path: Path, make_sample: MakeSample, name: str) -> None:
    change, message = BROKEN[name]
    sample = make_sample()
    change(sample)
    refuse(tmp_path, [make_sample("sound"), sample], f"sample .*: {message}")


def test_row_columns_come_from_the_metadata(tmp_path: Path, make_sample: MakeSample) -> None:
    sample = make_sample()
    (row,) = write_shard(tmp_path / "train" / "0.tar", [sample])
    assert isinstance(row, IndexRow)
    assert (row.song_id, row.language, row.duration_s) == (sample.metadata["song_id"], "en", 24.0)
    assert row.sha256 == sample.metadata["provenance"]["sha256"]


def test_encode_sample_names_a_missing_array(make_sample: MakeSample) -> None:
    sample = make_sample()
    arrays = sample.arrays
    del arrays["prompts"]
    with pytest.raises(ShardError, match="found latents, latents_std, semantic_tokens"):
        encode_sample(sample.metadata, arrays)
