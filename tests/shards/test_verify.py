"""Verification as a user runs it: one line for each thing that is wrong, counts as JSON, exit codes."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shards.__main__ import main
from shards.index import IndexRow, read_dataset_info, write_dataset_info, write_index
from shards.reader import Sample
from shards.verify import verify
from shards.writer import write_shard

REPOSITORY = Path(__file__).resolve().parents[2]


def run(*arguments: str | Path) -> tuple[int, list[str], str]:
    """Run `python -m shards` and return exit code, lines of output and errors."""
    command = [sys.executable, "-m", "shards", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    return done.returncode, done.stdout.splitlines(), done.stderr


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def test_sound_dataset(tmp_path: Path, rows: list[IndexRow]) -> None:
    code, lines, _ = run("verify", tmp_path)
    assert code == 0
    assert len(lines) == 1
    result = json.loads(lines[0])
    num_bytes = sum(path.stat().st_size for path in tmp_path.glob("*/*.tar"))
    assert result.pop("hours") == pytest.approx(sum(row.duration_s for row in rows) / 3600, abs=1e-6)
    assert result == {"ok": True, "num_problems": 0, "num_samples": 5, "num_shards": 3, "num_bytes": num_bytes}


def test_damaged_dataset_exits_with_1(tmp_path: Path, rows: list[IndexRow]) -> None:
    flip(tmp_path / rows[0].shard, rows[0].latents_offset + 500)
    code, lines, _ = run("verify", tmp_path)
    assert code == 1
    assert lines[0].startswith("train/000000.tar: sha256 is ")
    assert f"sample '{rows[0].key}': checksum differs" in lines[1]
    assert json.loads(lines[2]) | {"num_bytes": 0, "hours": 0} == {
        "ok": False, "num_problems": 2, "num_samples": 4, "num_shards": 2, "num_bytes": 0, "hours": 0,
    }  # fmt: skip


@pytest.mark.parametrize("arguments", [[], ["verify"], ["verify", "no/such/folder"], ["frobnicate", "."]])
def test_wrong_use_exits_with_2(arguments: list[str]) -> None:
    code, _, errors = run(*arguments)
    assert code == 2
    assert "usage: python -m shards" in errors


def test_shards_folder_may_be_the_source_folder(tmp_path: Path, rows: list[IndexRow]) -> None:
    """`--out shards/` puts data beside the code, so nothing else in the folder may matter."""
    for name in ("schema.py", "README.md", "train/notes.txt", "other/0.tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("not data")
    assert verify(tmp_path).problems == []


def problems(root: Path) -> list[str]:
    report = verify(root)
    assert all("\n" not in problem for problem in report.problems)
    return report.problems


def test_no_dataset_at_all(tmp_path: Path) -> None:
    missing_info, missing_index = problems(tmp_path)
    assert "dataset.json is missing" in missing_info
    assert "index.parquet is missing" in missing_index


def test_damaged_index_is_one_problem(tmp_path: Path, rows: list[IndexRow]) -> None:
    path = tmp_path / "index.parquet"
    data = bytearray(path.read_bytes())
    place = pq.ParquetFile(path).metadata.row_group(0).column(4)
    data[(place.dictionary_page_offset or place.data_page_offset) + place.total_compressed_size - 1] ^= 1
    path.write_bytes(data)
    (problem,) = problems(tmp_path)
    assert "index.parquet cannot be read as Parquet" in problem


def test_column_twice_is_a_problem(tmp_path: Path, rows: list[IndexRow]) -> None:
    table = pq.read_table(tmp_path / "index.parquet")
    pq.write_table(table.append_column("crc32", table.column("crc32")), tmp_path / "index.parquet")
    (problem,) = problems(tmp_path)
    assert "column 'crc32' is there 2 times" in problem


def test_missing_info_still_checks_the_shards(tmp_path: Path, rows: list[IndexRow]) -> None:
    (tmp_path / "dataset.json").unlink()
    flip(tmp_path / rows[4].shard, 700)
    missing, changed = problems(tmp_path)
    assert "dataset.json is missing" in missing
    assert changed.startswith("val/000000.tar: sha256 is ")


def test_missing_shard_names_what_is_lost(tmp_path: Path, rows: list[IndexRow]) -> None:
    (tmp_path / "train/000001.tar").unlink()
    (problem,) = problems(tmp_path)
    assert problem.startswith("train/000001.tar: missing")
    assert rows[2].key in problem
    assert rows[3].key in problem


def test_cut_shard_names_what_is_lost(tmp_path: Path, rows: list[IndexRow]) -> None:
    path = tmp_path / "train/000000.tar"
    os.truncate(path, rows[1].end - 1)
    size, lost = problems(tmp_path)
    assert size.endswith(": it is cut")
    assert f"sample '{rows[1].key}'" in lost


def test_unlisted_shard(tmp_path: Path, rows: list[IndexRow], make_sample: Callable[..., Sample]) -> None:
    write_shard(tmp_path / "val" / "000001.tar", [make_sample("late")])
    assert problems(tmp_path) == ["val/000001.tar: not in the index; delete it, or extract the dataset again"]


def test_sample_that_the_index_leaves_out(tmp_path: Path, rows: list[IndexRow]) -> None:
    write_index(tmp_path, rows[1:])
    found = problems(tmp_path)
    assert f"train/000000.tar: bytes 0 to {rows[1].start} belong to no sample of the index" in found
    assert "dataset.json: num_samples is 5, the index has 4" in found


def test_index_that_tells_another_story(tmp_path: Path, rows: list[IndexRow]) -> None:
    write_index(tmp_path, [dataclasses.replace(rows[0], language="zh"), *rows[1:]])
    (problem,) = problems(tmp_path)
    assert problem.endswith("language is 'en', the index says 'zh'")


def test_several_checksums_for_one_shard(tmp_path: Path, rows: list[IndexRow]) -> None:
    write_index(tmp_path, [rows[0], dataclasses.replace(rows[1], shard_sha256="0" * 64), *rows[2:]])
    assert problems(tmp_path)[0].startswith("train/000000.tar: the index gives it several sizes or checksums")


def change_info(root: Path, **changes: Any) -> None:
    write_dataset_info(root, dataclasses.replace(read_dataset_info(root), **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_samples": 6, "splits": {"train": 5, "val": 1}}, "num_samples is 6, the index has 5"),
        ({"hours": 1.0}, "hours is 1.0, the index has 0.03"),
        ({"num_shards": 2}, "num_shards is 2, the index has 3"),
        ({"latent_mean": (0.0,) * 8}, r"latent_mean\[\d\] is 0, the train split has"),
        ({"latent_std": (1.0,) * 8}, r"latent_std\[\d\] is 1, the train split has"),
        ({"codebook_size": 100}, "semantic.npy holds id"),
    ],
)
def test_info_that_does_not_fit(tmp_path: Path, rows: list[IndexRow], changes: dict[str, Any], message: str) -> None:
    change_info(tmp_path, **changes)
    found = problems(tmp_path)
    assert any(re.search(message, problem) for problem in found), found


def test_values_that_only_the_writer_checks(
    tmp_path: Path, rows: list[IndexRow], make_sample: Callable[..., Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shards.writer.check_sample", lambda sample, where: None)
    sample = make_sample("val/0")
    sample.latents[3, 3] = float("nan")
    write_index(tmp_path, rows[:4] + write_shard(tmp_path / "val" / "000000.tar", [sample]))
    (problem,) = problems(tmp_path)
    assert problem.startswith(f"val/000000.tar: sample '{sample.key}': ")
    assert problem.endswith("latent.npy holds a value that is infinite or not a number")


@pytest.mark.parametrize("name", ["key", "first"])
def test_inspect(tmp_path: Path, rows: list[IndexRow], name: str) -> None:
    row = rows[3] if name == "key" else rows[0]
    code, lines, errors = run("inspect", tmp_path, *([row.key] if name == "key" else []))
    assert code == 0, errors
    assert lines[0].split() == ["key", row.key]
    assert json.loads(lines[-1])["shapes"]["latents"] == [row.num_frames, 8]
    assert any("one \\u98ce" in line for line in lines)  # lyrics survive a terminal without their letters


def test_inspect_of_nobody(tmp_path: Path, rows: list[IndexRow]) -> None:
    code, lines, _ = run("inspect", tmp_path, "nobody")
    assert code == 1
    assert json.loads(lines[-1]) == {"ok": False, "error": "no sample has the key or song_id 'nobody'"}


def test_inspect_prints_no_control_characters(
    tmp_path: Path, rows: list[IndexRow], make_sample: Callable[..., Sample], capsys: pytest.CaptureFixture[str]
) -> None:
    sample = make_sample("val/0")
    sample.metadata["lines"][0]["text"] = "\x1b[2J\nverify: all is well"
    write_index(tmp_path, rows[:4] + write_shard(tmp_path / "val" / "000000.tar", [sample]))
    assert main(["inspect", str(tmp_path), "val/0"]) == 0
    assert "\\x1b[2J\\nverify" in capsys.readouterr().out


def test_stats(tmp_path: Path, rows: list[IndexRow], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stats", str(tmp_path)]) == 0
    brief = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (brief["num_samples"], brief["num_shards"], brief["splits"]["val"]["num_samples"]) == (5, 3, 1)
    assert main(["stats", str(tmp_path), "--contents"]) == 0
    full = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert full.items() >= brief.items()
    assert full["section_s"] == {"chorus": 65.24, "intro": 20.0, "verse": 35.0}
    assert full["lyric_ids_per_song"]["max"] == 4 + 1 + 1 + 5 + 1 + 2
    assert full["codebook_used"] <= 5 * 603


def test_stats_are_counted_over_all_groups(
    tmp_path: Path, rows: list[IndexRow], capsys: pytest.CaptureFixture[str]
) -> None:
    """A language that begins in one row group and ends in another is one."""
    write_index(
        tmp_path, [dataclasses.replace(row, language="zh" if k in (1, 2) else "en") for k, row in enumerate(rows)]
    )
    pq.write_table(pq.read_table(tmp_path / "index.parquet"), tmp_path / "index.parquet", row_group_size=2)
    assert main(["stats", str(tmp_path)]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {language: part["num_samples"] for language, part in found["languages"].items()} == {"en": 3, "zh": 2}
    assert found["num_bytes"] == sum(path.stat().st_size for path in tmp_path.glob("*/*.tar"))


def test_stats_of_durations_that_are_none(
    tmp_path: Path, rows: list[IndexRow], capsys: pytest.CaptureFixture[str]
) -> None:
    """NaN is no JSON, which the last line promises to be."""
    table = pq.read_table(tmp_path / "index.parquet")
    number = table.schema.get_field_index("duration_s")
    column = pa.array([float("nan")] * len(rows))
    pq.write_table(table.set_column(number, table.schema.field(number), column), tmp_path / "index.parquet")
    assert main(["stats", str(tmp_path)]) == 1
    error = json.loads(capsys.readouterr().out.splitlines()[-1])["error"]
    assert error == "index.parquet: duration_s holds values that are not finite; `python -m shards verify` names them"


def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--help"], ["verify", "--help"], ["inspect", "--help"], ["stats", "--help"]):
        with pytest.raises(SystemExit, match="0"):
            main(arguments)
        assert "exit codes: 0 all is well" in " ".join(capsys.readouterr().out.split())
