"""Batches: what a step learns from depends on dataset, seed and step alone, and crops end where music does."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from model.data.batches import DENIED, Batches, MicroBatch, Prefetcher, derive_seed
from model.data.crops import Crop, CropRules, UnusableSongError, choose_crop, choose_length, choose_prompt, spread
from model.network.song_batch import BatchError
from model.settings.settings import RunConfig
from shards.index import read_dataset_info, read_index, write_dataset_info, write_index
from shards.reader import Sample, ShardReader
from shards.schema import ShardError
from shards.vocabulary import TAG_IDS
from shards.writer import write_shard
from tests.shards.flaky_server import answer, serve_flaky

from ..tiny_dataset import LINE_IDS, SECTION_FRAMES, build_song, tiny_config, write_tiny_dataset

NUM_SONGS = 7


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    train = [build_song(number, 4 + number % 3) for number in range(NUM_SONGS)]
    val = [build_song(number, 5, split="val") for number in range(3)]
    return write_tiny_dataset(tmp_path_factory.mktemp("tiny"), train, val)


def open_batches(root: Path, split: str = "train", **changes: object) -> Batches:
    config: RunConfig = tiny_config(root, root / "run", **changes)
    return Batches(read_index(root), ShardReader(root), config, split)


def open_songs(root: Path, songs: list[Sample], **changes: object) -> Batches:
    return open_batches(write_tiny_dataset(root, songs), **changes)


def songs_of(micro_batches: tuple[MicroBatch, ...]) -> Iterator[tuple[int, str, int, bytes, bytes, bytes]]:
    """Yield everything about each song of a rank, without the padding that its neighbours decide."""
    for micro in micro_batches:
        if micro.is_repeat:
            continue
        batch = micro.batch
        for row, (slot, key, seed) in enumerate(zip(micro.slots, batch.keys, micro.seeds, strict=True)):
            frames, lyrics = int(batch.num_frames_B[row]), int(batch.num_lyrics_B[row])
            prompt = batch.prompts_BNC[row, : int(batch.num_prompt_frames_B[row])]
            yield (
                slot,
                key,
                seed,
                batch.latents_BTC[row, :frames].numpy().tobytes(),
                batch.lyric_ids_BL[row, :lyrics].numpy().tobytes(),
                prompt.numpy().tobytes(),
            )


@pytest.mark.parametrize(("world_size", "micro_batch_size"), [(1, 1), (1, 5), (2, 2), (3, 1), (7, 2)])
def test_a_step_is_the_same_for_any_ranks_and_micro_batches(dataset: Path, world_size: int, micro_batch_size: int):
    expected = sorted(songs_of(open_batches(dataset).train_batch(3, 0, 1).micro_batches))
    assert [song[0] for song in expected] == list(range(5))
    batches = open_batches(dataset, trainer__micro_batch_size=micro_batch_size)
    ranks = [batches.train_batch(3, rank, world_size).micro_batches for rank in range(world_size)]
    assert sorted(song for rank in ranks for song in songs_of(rank)) == expected
    assert len({len(rank) for rank in ranks}) == 1, "ranks must run the same number of micro-batches"


def test_a_step_does_not_depend_on_what_was_read_before(dataset: Path):
    used = open_batches(dataset)
    for step in (0, 9, 2):
        used.train_batch(step, 0, 1)
    fresh = open_batches(dataset)
    assert list(songs_of(used.train_batch(4, 0, 1).micro_batches)) == list(
        songs_of(fresh.train_batch(4, 0, 1).micro_batches)
    )


def test_steps_and_seeds_differ(dataset: Path):
    batches = open_batches(dataset)
    first, second = (list(songs_of(batches.train_batch(step, 0, 1).micro_batches)) for step in (0, 1))
    other_seed = list(songs_of(open_batches(dataset, trainer__seed=2).train_batch(0, 0, 1).micro_batches))
    assert len({song[2] for song in (*first, *second, *other_seed)}) == 15, "every song of every step has its own seed"
    assert len({derive_seed(1, step, slot) for step in range(50) for slot in range(50)}) == 2500


def test_an_epoch_passes_through_every_song_once_in_a_new_order(dataset: Path):
    batches = open_batches(dataset, trainer__batch_size=NUM_SONGS)
    epochs = [
        [song[1] for song in sorted(songs_of(batches.train_batch(step, 0, 1).micro_batches))] for step in range(4)
    ]
    assert all(len(set(epoch)) == NUM_SONGS for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_the_stream_does_not_depend_on_the_batch_size(dataset: Path):
    def stream(batch_size: int, first: int, last: int) -> list[tuple]:
        batches = open_batches(dataset, trainer__batch_size=batch_size)
        starts = range(first, last, batch_size)
        steps = [sorted(songs_of(batches.songs_from(start, 0, 1).micro_batches)) for start in starts]
        return [song[1:] for step in steps for song in step]

    whole = stream(4, 0, 24)
    assert stream(6, 0, 12) + stream(3, 12, 24) == whole
    assert len({song[1] for song in whole}) == 24, "every place has a seed of its own"


def test_denied_songs_are_passed_over_and_counted(dataset: Path):
    batches = open_batches(dataset)
    before = sorted(songs_of(batches.train_batch(0, 0, 1).micro_batches))
    batches.deny([before[2][1]])
    batch = batches.train_batch(0, 0, 1)
    after = sorted(songs_of(batch.micro_batches))
    assert batch.num_skipped == Counter({DENIED: batch.num_skipped.total()})
    assert after[2][1] != before[2][1]
    assert [song for song in after if song[0] != 2] == [song for song in before if song[0] != 2]


def held_out(root: Path, **changes: object) -> dict[str, tuple]:
    batch = open_batches(root, "val", data__sample_latents=False, **changes).validation_batch(0, 1)
    return {song[1]: song[2:] for song in songs_of(batch.micro_batches)}


def test_validation_is_drawn_over_the_whole_split_and_every_language(tmp_path: Path):
    songs = [build_song(number, 4, split="val") for number in range(42)]
    for number, song in enumerate(songs):
        song.metadata["language"] = "ja" if number == 41 else "zh" if number >= 31 else "en"
    train = [build_song(0)]

    def write(root: Path, songs: list[Sample]) -> Path:
        rows = write_shard(root / "train" / "000000.tar", train)
        for shard in range(0, len(songs), 7):
            rows += write_shard(root / "val" / f"{shard // 7:06d}.tar", songs[shard : shard + 7])
        write_tiny_dataset(root / "info", train)
        write_dataset_info(root, read_dataset_info(root / "info"))
        write_index(root, rows)
        return root

    root = write(tmp_path / "one", songs)
    drawn = held_out(root, data__val_songs=12)
    shards = {row.key: row.shard for row in read_index(root)}
    languages = {song.key: song.metadata["language"] for song in songs}
    assert Counter(languages[key] for key in drawn) == {"en": 8, "zh": 3, "ja": 1}
    assert len({shards[key] for key in drawn}) >= 4, "not the first rows"
    assert held_out(root, data__val_songs=12, trainer__seed=7) == drawn
    assert held_out(root, data__val_songs=12, data__val_seed=7).keys() != drawn.keys()
    assert held_out(root, data__val_songs=100).keys() == languages.keys()
    assert Counter(languages[key] for key in held_out(root, data__val_songs=3)) == {"en": 1, "zh": 1, "ja": 1}
    more = held_out(write(tmp_path / "two", [build_song(99, 4, split="val"), *songs]), data__val_songs=12)
    assert len(more.keys() & drawn.keys()) >= 11, "a song that is added takes at most one place"
    assert all(more[key] == drawn[key] for key in more.keys() & drawn.keys()), "and changes no cut"


def test_validation_songs_are_the_same_for_every_run(dataset: Path):
    runs = [open_batches(dataset, "val", trainer__seed=seed).validation_batch(0, 1) for seed in (1, 2)]
    one, two = (sorted(songs_of(run.micro_batches)) for run in runs)
    assert one == two
    assert len(one) == 2, "data.val_songs"


def test_the_posterior_mean_is_used_where_nothing_is_sampled(dataset: Path):
    batches = open_batches(dataset, data__sample_latents=False)
    reader, index = ShardReader(dataset), read_index(dataset)
    micro = batches.train_batch(0, 0, 1).micro_batches[0]
    number = index.find(micro.batch.keys[0])
    assert number is not None
    stored = reader.read(index.row(number)).latents.astype(np.float32)
    crop = micro.batch.latents_BTC[0, : int(micro.batch.num_frames_B[0])].numpy()
    starts = [s for s in range(0, len(stored), SECTION_FRAMES) if np.array_equal(stored[s : s + len(crop)], crop)]
    assert len(starts) == 1, "a crop starts at a section and holds the stored means"


def test_an_epoch_survives_changes_of_the_number_of_ranks(tmp_path: Path):
    """8 ranks, then 3, then 5, each started anew: every song once, and none of it depends on the ranks."""
    songs = [build_song(number, 4 + number % 3) for number in range(30)]
    root = write_tiny_dataset(tmp_path, songs)

    def open_run() -> Batches:
        return open_batches(root, trainer__batch_size=6)

    seen = []
    for step, world_size in enumerate([8, 8, 3, 3, 5]):
        ranks = [open_run().train_batch(step, rank, world_size).micro_batches for rank in range(world_size)]
        seen += sorted(song for rank in ranks for song in songs_of(rank))
    assert sorted(song[1] for song in seen) == sorted(song.key for song in songs)
    assert seen == [
        song for step in range(5) for song in sorted(songs_of(open_run().train_batch(step, 0, 1).micro_batches))
    ]


def test_languages_are_mixed_by_share(tmp_path: Path):
    songs = [build_song(number, 4) for number in range(8)]
    for song in songs[6:]:
        song.metadata["language"] = "zh"
    languages = [{"language": "zh", "share": 3.0}, {"language": "en", "share": 1.0}]
    batches = open_songs(tmp_path, songs, trainer__batch_size=200, data__languages=languages)
    chinese = {song.key for song in songs[6:]}
    keys = [song[1] for step in range(5) for song in songs_of(batches.train_batch(step, 0, 1).micro_batches)]
    assert sum(key in chinese for key in keys) == 750, "of 1000, a cycle of the mixture"
    assert batches.num_songs == 8


def damage(root: Path, key: str) -> None:
    """Flip a bit of the latents of a song."""
    index = read_index(root)
    number = index.find(key)
    assert number is not None
    row = index.row(number)
    with (root / row.shard).open("r+b") as file:
        file.seek(row.latents_offset + 1000)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))


def test_a_damaged_song_stops_the_run_or_is_skipped_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    songs = [build_song(number, 4) for number in range(3)]
    root = write_tiny_dataset(tmp_path, songs)
    damage(root, songs[1].key)
    with pytest.raises(ShardError, match=f"train/000000.tar: sample '{songs[1].key}': checksum differs"):
        open_batches(root, trainer__batch_size=3).train_batch(0, 0, 1)
    skipping = open_batches(root, trainer__batch_size=3, data__on_bad_shard="skip")
    for step in range(2):
        batch = skipping.train_batch(step, 0, 1)
        keys = [song[1] for song in songs_of(batch.micro_batches)]
        assert len(keys) == 3
        assert songs[1].key not in keys
        assert batch.num_skipped["damaged: train/000000.tar"] == batch.num_skipped.total() >= 1
    assert caplog.text.count("checksum differs") == 1, "named once"


def test_a_missing_shard_is_skipped_and_counted(tmp_path: Path):
    songs = [build_song(number, 4) for number in range(4)]
    rows = write_shard(tmp_path / "train" / "000000.tar", songs[:2])
    write_tiny_dataset(tmp_path / "whole", songs)
    rows += write_shard(tmp_path / "train" / "000001.tar", songs[2:])
    write_index(tmp_path, rows)
    write_dataset_info(tmp_path, read_dataset_info(tmp_path / "whole"))
    (tmp_path / "train" / "000001.tar").unlink()
    batch = open_batches(tmp_path, trainer__batch_size=4, data__on_bad_shard="skip").train_batch(0, 0, 1)
    assert {song[1] for song in songs_of(batch.micro_batches)} <= {song.key for song in songs[:2]}
    assert batch.num_skipped["damaged: train/000001.tar"] >= 2


def test_what_a_network_does_not_give_is_skipped_and_counted_as_damage_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("shards.remote_retry.sleep", lambda _: None)
    songs = [build_song(number, 4) for number in range(4)]
    rows = write_shard(tmp_path / "train" / "000000.tar", songs[:2])
    write_tiny_dataset(tmp_path / "whole", songs)
    rows += write_shard(tmp_path / "train" / "000001.tar", songs[2:])
    write_index(tmp_path, rows)
    write_dataset_info(tmp_path, read_dataset_info(tmp_path / "whole"))
    with serve_flaky(tmp_path) as server:
        index = read_index(server.url)
        server.only, server.faults, server.head_faults = "000001.tar", [answer(503)] * 10**6, [answer(503)] * 10**6
        for on_bad_shard in ("skip", "stop"):
            config = tiny_config(tmp_path, tmp_path, trainer__batch_size=4, data__on_bad_shard=on_bad_shard)
            batches = Batches(index, ShardReader(server.url), config, "train")
            if on_bad_shard == "stop":
                with pytest.raises(ShardError, match=r"000001.tar: cannot be read, tried 5 times .*503"):
                    batches.train_batch(0, 0, 1)
                continue
            batch = batches.train_batch(0, 0, 1)
            assert {song[1] for song in songs_of(batch.micro_batches)} <= {song.key for song in songs[:2]}
            assert batch.num_skipped["not read: train/000001.tar"] == batch.num_skipped.total() >= 2


def test_lengths_of_neighbours_lie_evenly():
    """So that every step has nearly as many tokens: 128 crops from anywhere in the stream have the mean length."""
    places = np.random.default_rng(0).integers(0, 20_000_000, 50)
    for seed, place in enumerate(places.tolist()):
        shares = [spread(derive_seed(seed, "length"), place + k) for k in range(128)]
        assert 0 <= min(shares) <= max(shares) < 1
        assert np.mean(shares) == pytest.approx(0.5, abs=0.01), "chance would miss it by 0.026"
    assert spread(1, 0) != spread(2**60, 0)
    lengths = {choose_length(3000, RULES, share) for share in np.linspace(0, 1, 500, endpoint=False)}
    assert lengths == set(range(50, 126))


RULES = CropRules(min_frames=50, max_frames=125, block_frames=16, max_lyric_tokens=60, seconds_per_tag=1.0)


@pytest.mark.parametrize("seed", range(20))
def test_crops_begin_and_end_at_sections(seed: int):
    song = build_song(1, 6)
    crop = choose_crop(song.metadata, RULES, np.random.default_rng(seed))
    assert crop.start_frame % SECTION_FRAMES == 0
    assert 0 <= -crop.end_frame % SECTION_FRAMES < RULES.block_frames, "floored to whole blocks"
    assert crop.num_frames % RULES.block_frames == 0
    assert 48 <= crop.num_frames <= 125
    num_verses = round((crop.end_frame - max(crop.start_frame, SECTION_FRAMES)) / SECTION_FRAMES)
    assert crop.lyric_ids.count(TAG_IDS["verse"]) == num_verses
    assert crop.lyric_ids.count(LINE_IDS[0]) == num_verses


def test_crops_are_about_as_long_as_wanted():
    """Of the released lengths: 60 to 150 s of songs of 4 min, in sections of 10 to 30 s."""
    rules = CropRules(min_frames=1500, max_frames=3750, block_frames=16, max_lyric_tokens=600, seconds_per_tag=1.0)
    generator = np.random.default_rng(0)
    wanted, found = [], []
    for _ in range(300):
        cuts = np.cumsum([0, *generator.integers(250, 750, 12)])
        spans = [{"label": "inst", "start_frame": a, "end_frame": b} for a, b in zip(cuts, cuts[1:], strict=False)]
        song = {"lyrics_source": "clean", "num_frames": int(cuts[-1]), "sections": spans, "lines": []}
        wanted.append(choose_length(song["num_frames"], rules, generator.random()))
        found.append(choose_crop(song, rules, generator, wanted[-1]).num_frames)
    assert min(found) >= 1500 - 16
    assert max(found) <= 3750
    assert np.ptp(found) > 1800, "all lengths come up"
    miss = np.subtract(found, wanted)
    assert abs(miss.mean()) < 50
    assert (np.array(found) <= 1.1 * np.array(wanted)).all(), "what a budget of tokens may be exceeded by"
    assert np.abs(miss).mean() < 200


def test_long_sections_are_cut_between_lines():
    song = build_song(1, 6)
    metadata = {**song.metadata, "sections": [{**song.metadata["sections"][1], "start_frame": 0, "end_frame": 360}]}
    metadata["lines"] = [{**line, "section_index": 0} for line in song.metadata["lines"]]
    spans = [choose_crop(metadata, RULES, np.random.default_rng(seed)) for seed in range(30)]
    assert len({span.start_frame for span in spans}) > 2
    for span in spans:
        for line in metadata["lines"]:
            assert not line["start_frame"] < span.start_frame < line["end_frame"]
            floor = RULES.block_frames
            assert not line["start_frame"] + floor <= span.end_frame <= line["end_frame"] - floor


def test_without_a_cut_at_lines_any_block_outside_of_lines_will_do():
    song = build_song(1, 6)
    metadata = {**song.metadata, "sections": [{**song.metadata["sections"][0], "end_frame": 360}]}
    metadata["lines"] = [{**song.metadata["lines"][0], "section_index": 0, "start_frame": 170, "end_frame": 190}]
    spans = [choose_crop(metadata, RULES, np.random.default_rng(seed)) for seed in range(60)]
    starts = {span.start_frame for span in spans}
    assert len(starts) > 10
    assert 176 not in starts, "inside the line"
    assert starts <= {*range(0, 360, 16), 170, 190}


def test_lyrics_over_budget_give_a_shorter_crop():
    song = build_song(1, 6)
    one_verse = CropRules(min_frames=50, max_frames=200, block_frames=16, max_lyric_tokens=6, seconds_per_tag=1.0)
    for seed in range(10):
        crop = choose_crop(song.metadata, one_verse, np.random.default_rng(seed))
        assert len(crop.lyric_ids) <= 6
        assert crop.num_frames <= 2 * SECTION_FRAMES


def test_lyrics_that_fit_in_no_crop_are_a_reason_to_skip():
    rules = CropRules(min_frames=100, max_frames=200, block_frames=16, max_lyric_tokens=1, seconds_per_tag=1.0)
    with pytest.raises(UnusableSongError, match="no span with 1 to .*max_lyric_tokens symbols"):
        choose_crop(build_song(1).metadata, rules, np.random.default_rng(0))


def test_no_crop_is_without_a_symbol_of_lyrics():
    rules = CropRules(min_frames=50, max_frames=60, block_frames=16, max_lyric_tokens=60, seconds_per_tag=5.0)
    song = build_song(1, 6).metadata
    for seed in range(30):
        crop = choose_crop(song, rules, np.random.default_rng(seed))
        assert crop.lyric_ids
        assert crop.start_frame >= SECTION_FRAMES, "nothing is sung in the intro, which is too short for a tag"
    with pytest.raises(UnusableSongError, match="no span with 1 to .*max_lyric_tokens symbols"):
        choose_crop(song | {"lines": []}, rules, np.random.default_rng(0))


def test_songs_without_line_times_are_used_whole_or_not_at_all():
    metadata = build_song(1, 2, lyrics_source="raw").metadata
    crop = choose_crop(metadata, RULES, np.random.default_rng(0))
    assert (crop.start_frame, crop.end_frame) == (0, 112)
    with pytest.raises(UnusableSongError, match="no line times"):
        choose_crop(build_song(1, 6, lyrics_source="raw").metadata, RULES, np.random.default_rng(0))


def test_the_prompt_comes_from_outside_the_crop_where_possible():
    crop = Crop(start_frame=64, end_frame=192, lyric_ids=[])
    generator = np.random.default_rng(0)

    def draw(starts: list[int]) -> set[int | None]:
        return {choose_prompt({"prompt_start_frames": starts}, crop, 60, generator) for _ in range(40)}

    assert draw([0, 4, 5, 64, 191, 192, 300]) == {0, 1, 5, 6}
    assert draw([5, 191]) == {0, 1}
    assert draw([]) == {None}


def test_skipped_songs_are_counted_and_replaced(tmp_path: Path):
    songs = [build_song(0, 4), build_song(1, 4), build_song(2, 6, lyrics_source="raw")]
    batch = open_songs(tmp_path, songs, trainer__batch_size=3).train_batch(0, 0, 1)
    keys = [song[1] for song in songs_of(batch.micro_batches)]
    assert len(keys) == 3
    assert not any(key.startswith("train-2-") for key in keys)
    assert batch.num_skipped == Counter({"no line times and longer than data.max_crop_s": batch.num_skipped.total()})
    assert batch.num_skipped.total() >= 1


def test_a_dataset_of_unusable_songs_is_refused_with_the_reason(tmp_path: Path):
    batches = open_songs(tmp_path, [build_song(0, 6, lyrics_source="raw")])
    with pytest.raises(BatchError, match="100 times no line times"):
        batches.train_batch(0, 0, 1)


def test_a_dataset_of_short_songs_is_refused(tmp_path: Path):
    with pytest.raises(
        BatchError, match=r"no song has 75 frames.*of 1 songs the longest has 2\.4 s, and data\.min_crop_s = 3"
    ):
        open_songs(tmp_path, [build_song(0, 1)], data__min_crop_s=3.0)


def test_a_split_without_songs_is_refused(tmp_path: Path):
    root = write_tiny_dataset(tmp_path, [build_song(0)])
    with pytest.raises(BatchError, match="split val: the index lists no songs"):
        open_batches(root, "val")


def test_the_prefetcher_keeps_the_order_and_passes_errors_on(dataset: Path):
    batches = open_batches(dataset)

    def load(step: int):
        if step == 3:
            raise BatchError("step 3 cannot be read")
        return batches.train_batch(step, 0, 1)

    prefetcher = Prefetcher(load, range(1, 4), num_ahead=2)
    for step in (1, 2):
        expected = list(songs_of(batches.train_batch(step, 0, 1).micro_batches))
        assert list(songs_of(prefetcher.next().micro_batches)) == expected
    with pytest.raises(BatchError, match="step 3"):
        prefetcher.next()
    prefetcher.close()
