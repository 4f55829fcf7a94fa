import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.cleaning.records import SONGS_SCHEMA
from pipeline.encoding.encode_song import SongToEncode, prompt_starts
from pipeline.encoding.plan_shards import plan_shards, songs_from_clean
from pipeline.input_file import InputError
from shards.schema import PROMPT_FRAMES
from shards.writer import make_key


def songs(count: int) -> list[SongToEncode]:
    return [
        SongToEncode(
            key=make_key(f"song {k}"),
            path=Path(f"{k}.mp3"),
            lyrics_source="clean",
            row={"song_id": f"song {k}", "duration_s": 100.0 + k, "sha256": hashlib.sha256(b"%d" % k).hexdigest()},
            fingerprint=f"{k:064d}",
        )
        for k in range(count)
    ]


def plan(chosen, val_fraction=0.1, shard_bytes=8_000_000):
    return plan_shards(chosen, val_fraction=val_fraction, shard_bytes=shard_bytes, prompts_per_song=4)


def names(planned):
    return [(shard.name, [song.key for song in shard.songs]) for shard in planned]


def test_every_song_is_in_one_shard_whatever_the_order():
    planned = plan(songs(100))
    assert names(planned) == names(plan(songs(100)[::-1]))
    keys = [song.key for shard in planned for song in shard.songs]
    assert sorted(keys) == sorted(song.key for song in songs(100))
    assert {shard.name.split("/")[0] for shard in planned} == {"train", "val"}
    assert len([shard for shard in planned if shard.name.startswith("train/")]) > 5


def test_a_song_more_moves_no_song_to_the_other_split():
    def val(planned):
        return {song.key for shard in planned if shard.name.startswith("val/") for song in shard.songs}

    assert val(plan(songs(100))) <= val(plan(songs(101)))


def test_copies_of_a_recording_share_a_split():
    copies = songs(40)
    for song in copies[20:]:
        song.row["sha256"] = copies[int(song.row["song_id"].split()[1]) - 20].row["sha256"]
    split = {song.key: shard.name[:3] for shard in plan(copies, 0.3) for song in shard.songs}
    assert all(split[copies[k].key] == split[copies[k + 20].key] for k in range(20))


def test_few_songs_still_have_one_to_validate_on():
    assert [len(shard.songs) for shard in plan(songs(3), 0.01)] == [2, 1]
    assert [shard.name for shard in plan(songs(1), 0.01)] == ["train/000000.tar"]
    assert [shard.name for shard in plan(songs(3), 0.0)] == ["train/000000.tar"]


def test_a_shard_is_known_by_all_that_is_in_it():
    first, second = songs(5), songs(5)
    second[3] = SongToEncode(
        key=second[3].key, path=second[3].path, lyrics_source="clean", row=second[3].row, fingerprint="x"
    )
    assert plan(first, 0)[0].fingerprint != plan(second, 0)[0].fingerprint


def test_prompts_come_from_different_places():
    assert prompt_starts(PROMPT_FRAMES - 1, 4) == [0]
    starts = prompt_starts(3_750, 4)
    assert len(starts) == 4
    assert starts[0] > 0
    assert starts[-1] + PROMPT_FRAMES <= 3_750
    assert prompt_starts(PROMPT_FRAMES + 1, 4) == [0]


def clean_row(audio: str, verdict: str = "keep") -> dict:
    return {field.name: None for field in SONGS_SCHEMA} | {
        "song_id": audio, "audio": audio, "sha256": "0" * 64, "duration_s": 1.0, "language": "en", "verdict": verdict,
        "lines": [], "words": [], "sections": [{"label": "inst", "start_s": 0.0, "end_s": 1.0}],
        "songbloom_lyrics": "[inst]", "metrics": {"lufs": -14.0},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([clean_row("a.mp3", "reject")], "no kept song"),
        ([clean_row("../outside.mp3")], "outside"),
        ([clean_row("gone.mp3")], "missing"),
    ],
)
def test_clean_tables_that_cannot_be_encoded_say_why(tmp_path, rows, message):
    pq.write_table(pa.Table.from_pylist(rows, schema=SONGS_SCHEMA), tmp_path / "songs.parquet")
    with pytest.raises(InputError, match=message):
        songs_from_clean(tmp_path / "raw", tmp_path, {})


def test_a_broken_clean_table_is_named(tmp_path):
    (tmp_path / "songs.parquet").write_bytes(b"PAR1 no table PAR1")
    with pytest.raises(InputError, match=r"songs\.parquet"):
        songs_from_clean(tmp_path, tmp_path, {})
