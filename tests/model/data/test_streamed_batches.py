"""`data.reader: webdataset`: runs on shards without an index; ranks step together and songs are checked as ever."""

from pathlib import Path

import pytest

from model.data.batches import DENIED
from model.data.streamed_batches import TOO_SHORT, StreamedBatches
from model.network.config import ConfigError
from model.network.song_batch import BatchError
from model.training.ranks import Ranks
from model.training.training_run import TrainingRun
from shards.schema import ShardError
from shards.writer import write_shard

from ..runs import read_metrics, run_to
from ..tiny_dataset import CODES, build_song, tiny_config, write_tiny_dataset


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Nine songs in three shards and two held out, with dataset.json, without an index."""
    songs = [build_song(number, 4 + number % 3) for number in range(9)]
    folder = write_tiny_dataset(tmp_path / "data", songs[:3], [build_song(n, 5, split="val") for n in range(2)])
    write_shard(folder / "train" / "000001.tar", songs[3:6])
    write_shard(folder / "train" / "000002.tar", songs[6:])
    (folder / "index.parquet").unlink()
    return folder


def open_stream(root: Path, split: str = "train", **changes: object) -> StreamedBatches:
    config = tiny_config(root, root / "run", data__reader="webdataset", **changes)
    return StreamedBatches(root, CODES, config, split)


@pytest.mark.parametrize("limits", [(2, 0), (0, 475), (1, 0)])
@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_every_slot_is_computed_once_and_ranks_step_together(
    root: Path, world_size: int, limits: tuple[int, int]
) -> None:
    size, tokens = limits
    changes = {"trainer__micro_batch_size": size, "trainer__micro_batch_tokens": tokens}
    streams = [open_stream(root, **changes) for _ in range(world_size)]
    for step in range(4):
        ranks = [stream.songs_from(5 * step, rank, world_size) for rank, stream in enumerate(streams)]
        micro_batches = [micro for rank in ranks for micro in rank.micro_batches]
        assert sorted(slot for micro in micro_batches if not micro.is_repeat for slot in micro.slots) == list(range(5))
        assert len({len(rank.micro_batches) for rank in ranks}) == 1


def test_a_run_trains_validates_and_goes_on(root: Path, ranks: Ranks, tmp_path: Path, caplog) -> None:
    caplog.set_level("INFO")
    config = tiny_config(root, tmp_path / "run", data__reader="webdataset", trainer__val_every=2)
    run_to(config, ranks, 2)
    run_to(config, ranks, 4)
    assert [step for step, *_ in read_metrics(tmp_path / "run", "loss")] == [1, 2, 3, 4]
    validated = read_metrics(tmp_path / "run", "val_loss")
    assert {step for step, _ in validated} == {0, 2, 4}
    assert "a stream of 3 shards (resumed without exactness)" in caplog.text


def test_an_epoch_passes_through_every_song(root: Path) -> None:
    stream = open_stream(root, trainer__batch_size=9)
    epochs = [
        [key for micro in stream.songs_from(9 * step, 0, 1).micro_batches for key in micro.batch.keys]
        for step in range(3)
    ]
    assert all(len(set(epoch)) == 9 for epoch in epochs)


def test_held_out_songs_are_shared_and_the_same_for_every_run(root: Path) -> None:
    def keys(world_size: int, **changes: object) -> list[str]:
        stream = open_stream(root, "val", **changes)
        batches = [stream.validation_batch(rank, world_size) for rank in range(world_size)]
        assert len({len(batch.micro_batches) for batch in batches}) == 1
        found = [micro for batch in batches for micro in batch.micro_batches if not micro.is_repeat]
        return sorted(key for micro in found for key in micro.batch.keys)

    expected = sorted(build_song(number, 5, split="val").key for number in range(2))
    assert keys(1) == keys(2) == keys(3, trainer__seed=9) == expected
    assert open_stream(root, "val").languages == dict.fromkeys(expected, "en")


def test_what_cannot_be_used_is_counted(root: Path) -> None:
    write_shard(root / "train" / "000000.tar", [build_song(20, 1), build_song(21, 4)])
    path = root / "train" / "000001.tar"
    path.write_bytes(path.read_bytes()[:9_000])
    stream = open_stream(root, trainer__batch_size=8, data__on_bad_shard="skip", data__min_crop_s=3.0)
    denied = build_song(7, 5).key
    stream.deny([denied])
    batches = [stream.songs_from(8 * step, 0, 1) for step in range(2)]
    skipped = batches[0].num_skipped + batches[1].num_skipped
    assert set(skipped) == {TOO_SHORT, DENIED, "damaged: in a stream"}
    assert not {key for batch in batches for micro in batch.micro_batches for key in micro.batch.keys} & {denied}
    with pytest.raises(ShardError):
        open_stream(root, trainer__batch_size=8).songs_from(0, 0, 1)


def test_what_it_cannot_do_is_refused(root: Path, ranks: Ranks, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="data.languages is a mixture and data.reader webdataset"):
        open_stream(root, data__languages=[{"language": "en", "share": 1.0}])
    with pytest.raises(ConfigError, match="streams folders; for a URL write an index"):
        TrainingRun(tiny_config("https://host/data", tmp_path / "run", data__reader="webdataset"), lambda: ranks)
    for path in (root / "train").iterdir():
        path.unlink()
    with pytest.raises(BatchError, match=r"split train: .*train holds no .tar files"):
        open_stream(root)
