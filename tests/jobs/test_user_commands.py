"""The user's commands as they stand in README.md, on two bundled songs with the bundled miniature models.

One test after the other uses what the one before left, as a user does.
"""

import hashlib
import json
import shutil
import subprocess
import wave
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from shards.index import read_index
from shards.reader import ShardReader

pytestmark = [pytest.mark.slow, pytest.mark.demo_weights]


def totals(done: subprocess.CompletedProcess[str]) -> dict:
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]  # the launcher writes after a command
    result: dict = json.loads(lines[-1])
    return result


def digests(folder: Path) -> dict[str, str]:
    files = [*sorted(folder.glob("*/*.tar")), folder / "index.parquet", folder / "dataset.json"]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def cluster(ray_head, workplace):
    """A running Ray with the two CPUs that a small machine has."""
    head = ray_head(workplace)
    yield head
    head.stop()


def test_clean_lyrics_as_a_ray_job_without_arguments(run, workplace, cluster):
    bad = workplace / "raw" / "bad"
    bad.mkdir()
    (bad / "empty.mp3").touch()
    (bad / "text.wav").write_text("no audio " * 100)
    with wave.open(str(bad / "short.wav"), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(b"\0\1" * 400)
    copied = next((workplace / "raw").glob("*/mixture.*"))
    shutil.copy(copied, bad / f"zz_copy{copied.suffix}")
    done = run(workplace, "ray job submit -- python jobs/clean_lyrics.py")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    stats = json.loads((workplace / "clean" / "stats.json").read_text())
    assert stats["seen"] == 6
    assert stats["quarantined"] == 2
    assert stats["kept"] + sum(stats["rejected"].values()) + stats["quarantined"] == stats["seen"]
    assert stats["rejected"]["too_short"] == stats["rejected"]["duplicate"] == 1
    quarantined = pq.read_table(workplace / "clean" / "quarantine.parquet").to_pylist()
    assert {row["audio"]: bool(row["reason"]) for row in quarantined} == {"bad/empty.mp3": True, "bad/text.wav": True}


def test_kept_songs_have_clean_timed_lines_in_sections(workplace):
    rows = pq.read_table(workplace / "clean" / "songs.parquet").to_pylist()
    kept = [row for row in rows if row["verdict"] == "keep"]
    assert kept
    for row in kept:
        assert row["lines"]
        assert row["dropped"] or row["song_id"]
        onsets = [word["start_s"] for word in row["words"]]
        assert onsets == sorted(onsets)
        assert all(0 <= word["start_s"] <= word["end_s"] <= row["duration_s"] for word in row["words"])
        assert row["sections"][0]["start_s"] == 0
        assert row["sections"][-1]["end_s"] == pytest.approx(row["duration_s"], abs=0.01)
        assert row["songbloom_lyrics"].startswith("[")
        stem = row["song_id"].replace("/", "__")
        assert (workplace / "clean" / "lyrics" / f"{stem}.lrc").exists()
        assert (workplace / "clean" / "lyrics" / f"{stem}.TextGrid").exists()
    assert "<html" in (workplace / "clean" / "report.html").read_text()


def test_a_job_with_a_working_dir_writes_where_it_was_told(run, workplace, cluster, tmp_path):
    (tmp_path / "jobs").symlink_to(workplace / "jobs")
    copy = tmp_path / "copy"
    shutil.copytree(workplace / "jobs", copy / "jobs", ignore=shutil.ignore_patterns("demo_songs", "__pycache__"))
    command = f"ray job submit --working-dir {copy} -- python jobs/clean_lyrics.py"
    command += f" --in {workplace}/raw --out {workplace}/clean"
    done = run(copy, command)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    stats = json.loads((workplace / "clean" / "stats.json").read_text())
    # Two songs, the short one and the text; an empty file and a copy cost nothing to judge again.
    assert stats["finished_before"] == 4


def test_extract_tokens_with_and_without_a_running_ray_gives_the_same_bytes(run, workplace, cluster):
    with_ray = totals(run(workplace, "python jobs/extract_tokens.py --in raw/ --out shards/"))
    assert with_ray["songs"] >= 1
    first = digests(workplace / "shards")
    cluster.stop()
    totals(run(workplace, "python jobs/extract_tokens.py --in raw/ --out other/ --workers 2"))
    assert digests(workplace / "other") == first
    verified = run(workplace, "python -m shards verify shards/")
    assert verified.returncode == 0, verified.stdout


def test_tokens_latents_and_lyrics_share_one_clock(workplace):
    reader = ShardReader(workplace / "shards")
    for row in read_index(workplace / "shards"):
        sample = reader.read(row)
        assert sample.latents.shape == (sample.num_frames, 64)
        assert sample.num_frames == int(sample.metadata["duration_s"] * 25 + 1e-6)
        assert sample.metadata["sections"][-1]["end_frame"] == sample.num_frames
        assert all(line["phoneme_ids"] for line in sample.metadata["lines"])
        assert len(np.unique(sample.semantic_tokens)) > 10


@pytest.mark.parametrize("ranks", [1, 2])
def test_deepspeed_trains_and_the_loss_falls(run, workplace, ranks):
    command = f"deepspeed --num_accelerators {ranks} model/train.py --config miniature.yaml"
    command += f" --max-steps 8 --out runs/{ranks}"
    summary = totals(run(workplace, command))
    assert summary["steps"] == 8
    assert summary["last_loss"] < summary["first_loss"]


def test_a_run_goes_on_where_it_was(run, workplace):
    command = "deepspeed --num_accelerators 1 model/train.py --config miniature.yaml --max-steps 9 --out runs/1"
    summary = totals(run(workplace, command))
    assert summary["steps"] == 9
    metrics = [json.loads(line) for line in (workplace / "runs" / "1" / "metrics.jsonl").read_text().splitlines()]
    steps = [entry["global_step"] for entry in metrics if "loss" in entry]
    assert steps == sorted(set(steps))


def generate(run, workplace, options: str) -> dict:
    """Write one song after the first of raw/, which `options` may name as {prompt}, and return what is said of it."""
    (workplace / "song.txt").write_text("[Verse]\nThe river opens every door\n[Outro]\n")
    prompt = next((workplace / "raw").glob("*/mixture.*"))
    command = f"python jobs/generate.py --checkpoint runs/1 --lyrics song.txt --prompt {prompt} "
    (song,) = totals(run(workplace, command + options.format(prompt=prompt)))["songs"]
    return song


def test_generate_writes_a_playable_file(run, workplace):
    song = generate(run, workplace, "--out song.flac --seconds 2 --steps 4")
    if song["out"] is None:
        assert song["ended"] == "eos"
        return
    audio, rate = soundfile.read(workplace / "song.flac")
    assert rate == 48_000
    assert len(audio) == round(song["seconds"] * 48_000)
    assert np.isfinite(audio).all()
    assert np.abs(audio).max() > 0


def test_generate_goes_on_from_a_recording_while_it_is_written(run, workplace):
    options = "--continue {prompt} --continue-at 3 --stream --out longer.wav --seconds 1.28 --steps 2"
    song = generate(run, workplace, options)
    assert song["seconds"] in (2.56, 3.2, 3.84)  # 3 s are 4 whole blocks of 0.64 s, and two more at most
    info = soundfile.info(workplace / "longer.wav")
    assert (info.subtype, info.frames) == ("FLOAT", round(song["seconds"] * 48_000))
