"""Verification by several processes, and behind a URL: the report that one process gives from the folder."""

import dataclasses
import hashlib
import multiprocessing
import os
import shutil
import signal
from pathlib import Path
from typing import Any
from zlib import crc32

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shards import check_shard
from shards.__main__ import main
from shards.index import IndexRow, read_index, write_index
from shards.verify import Report, verify
from tests.shards.conftest import write_dataset
from tests.shards.test_remote import serve


def damage(root: Path, rows: list[IndexRow]) -> None:
    """Change a latent, lose a shard, and write an index in small groups with a song twice and a row of no song."""
    data = bytearray((root / rows[0].shard).read_bytes())
    data[rows[0].latents_offset + 500] ^= 1
    (root / rows[0].shard).write_bytes(data)
    (root / rows[4].shard).unlink()
    records = pq.read_table(root / "index.parquet").to_pylist()
    records[1]["num_frames"] = 0
    records[3]["song_id"] = records[2]["song_id"]
    table = pa.Table.from_pylist(records, schema=pq.read_schema(root / "index.parquet"))
    pq.write_table(table, root / "index.parquet", row_group_size=2)


def test_report_does_not_depend_on_workers(tmp_path: Path, rows: list[IndexRow]) -> None:
    damage(tmp_path, rows)
    told: list[str] = []
    one, two = verify(tmp_path), verify(tmp_path, num_workers=2, on_problem=told.append)
    assert two == Report(**{**vars_of(one), "problems": []})
    assert told == one.problems
    beginnings = [
        f"index row '{rows[1].key}': 0 frames",
        "train/000000.tar: sha256 is",
        f"train/000000.tar: bytes {rows[0].end} to {rows[1].end} belong to no sample",
        f"train/000000.tar: sample '{rows[0].key}': checksum differs",
        f"train/000001.tar: sample '{rows[3].key}': song_id is 'train/3', the index says 'train/2'",
        "val/000000.tar: missing",
        "index: song_id 'train/2' is there twice, the second time in train/000001.tar",
        "dataset.json: num_samples is 5, the index has 4",
        "dataset.json: splits is",
        "dataset.json: hours is",
    ]
    assert len(one.problems) == one.num_problems == len(beginnings)
    for problem, beginning in zip(one.problems, beginnings, strict=True):
        assert problem.startswith(beginning)
    assert (one.num_samples, one.num_shards) == (1, 1)


def vars_of(report: Report) -> dict[str, Any]:
    return {name: getattr(report, name) for name in Report.__slots__}


@pytest.mark.parametrize("has_ranges", [True, False])
def test_url_gives_the_report_of_the_folder(tmp_path: Path, rows: list[IndexRow], has_ranges: bool) -> None:
    server, served = serve(tmp_path, has_ranges)
    assert verify(served.url) == verify(tmp_path)
    if has_ranges:
        for row in rows:
            assert served.num_bytes[f"/{row.shard}"] < 1.1 * row.shard_bytes, "a sound shard is fetched once"
    damage(tmp_path, rows)
    near, far = verify(tmp_path), verify(served.url)
    assert near.num_problems == 10
    for here, there in zip(near.problems, far.problems, strict=True):
        assert there == here.replace(f"missing from {tmp_path}", f"missing from {served.url}")
    server.shutdown()
    server.server_close()


def test_url_of_this_machine(tmp_path: Path, rows: list[IndexRow], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", tmp_path.as_uri()]) == 0
    (tmp_path / rows[4].shard).unlink()
    assert main(["verify", tmp_path.as_uri(), "--workers", "2"]) == 1
    out = capsys.readouterr().out
    assert f"{rows[4].shard}: missing from {tmp_path.as_uri()}" in out
    assert rows[4].key in out


def test_killed_worker_is_named_and_nothing_passes_unverified(
    tmp_path: Path, rows: list[IndexRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, served = serve(tmp_path, has_ranges=True)
    answer = server.RequestHandlerClass.do_GET  # type: ignore[attr-defined]
    killed: list[int | None] = []

    def kill_at_first(handler: Any) -> None:
        if handler.path == f"/{rows[2].shard}" and not killed:
            for child in multiprocessing.active_children():
                killed.append(child.pid)
                os.kill(child.pid or 0, signal.SIGKILL)
            return
        answer(handler)

    monkeypatch.setattr(server.RequestHandlerClass, "do_GET", kill_at_first)
    report = verify(served.url, num_workers=2)
    lost = [problem for problem in report.problems if "was killed by SIGKILL while it checked this shard" in problem]
    assert lost == report.problems
    assert any(f"{rows[2].shard}: worker process {pid} was killed" in problem for problem in lost for pid in killed)
    unverified = sum(row.key in problem for row in rows for problem in lost)
    assert unverified >= 2
    assert report.num_samples + unverified == len(rows)
    server.shutdown()
    server.server_close()


def test_shard_with_very_many_problems_is_cut_short_but_counted(
    tmp_path: Path, rows: list[IndexRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = bytearray((tmp_path / rows[0].shard).read_bytes())
    for row in rows[:2]:
        data[row.latents_offset + 500] ^= 1
    (tmp_path / rows[0].shard).write_bytes(data)
    assert verify(tmp_path).num_problems == 3
    monkeypatch.setattr(check_shard, "MAX_LINES", 1)
    report = verify(tmp_path)
    assert report.num_problems == 3
    assert report.problems[1:] == ["train/000000.tar: 2 more problems"]


def test_bytes_that_only_the_format_forbids(tmp_path: Path, rows: list[IndexRow]) -> None:
    """Padding that is not zero, with checksums that allow for it."""
    row = rows[4]
    data = bytearray((tmp_path / row.shard).read_bytes())
    data[row.end - 1] = 1
    (tmp_path / row.shard).write_bytes(data)
    sums: dict[str, Any] = {"crc32": crc32(data[row.start : row.end]), "shard_sha256": hashlib.sha256(data).hexdigest()}
    write_index(tmp_path, [*rows[:4], dataclasses.replace(row, **sums)])
    assert verify(tmp_path).problems == [f"val/000000.tar: sample '{row.key}': bytes that are not zero after a member"]


def test_small_groups_and_sorting_on_disk(
    tmp_path: Path, rows: list[IndexRow], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All commands with row groups of two rows and runs of two rows give what they give with everything in memory."""
    other = tmp_path / "other"
    write_dataset(other)
    shutil.rmtree(other / "val")
    assert main(["repair", str(other)]) == 1  # the shard of the val split is lost
    assert main(["merge", str(tmp_path / "large"), str(other)]) == 0
    whole = {path.name: path.read_bytes() for path in (tmp_path / "large").iterdir() if path.is_file()}
    assert len(whole) == 2
    monkeypatch.setattr("shards.external_sort.ROWS_IN_MEMORY", 2)
    for root in (tmp_path, other):
        pq.write_table(pq.read_table(root / "index.parquet"), root / "index.parquet", row_group_size=2)
    assert main(["merge", str(tmp_path / "small"), str(other)]) == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "small").iterdir() if path.is_file()} == whole
    assert main(["repair", str(other)]) == 0
    assert (other / "index.parquet").read_bytes() == whole["index.parquet"]
    assert verify(other).problems == []
    capsys.readouterr()
    assert main(["merge", str(tmp_path / "both"), str(tmp_path), str(other)]) == 1
    assert "song 'train/0' is in" in capsys.readouterr().out
    assert [row.key for row in read_index(other)] == [row.key for row in rows[:4]]
