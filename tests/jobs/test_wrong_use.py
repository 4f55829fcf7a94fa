"""What a user gets wrong ends with one clear line and exit code 2, before any work."""

import json
import time
import wave
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("jobs/clean_lyrics.py", "raw: no such folder"),
        ("jobs/clean_lyrics.py --in empty", "no songs found"),
        ("jobs/clean_lyrics.py --limt 3", "did you mean --limit?"),
        ("jobs/clean_lyrics.py --in songs --profile tiny", "profile"),
        ("jobs/extract_tokens.py --in nowhere/ --out shards/", "no such folder"),
        ("jobs/extract_tokens.py --in songs --out out --clean nowhere", "no songs.parquet"),
        ("jobs/extract_tokens.py --in songs --val-fraction 2", "--val-fraction"),
        ("jobs/fit_codebook.py --in empty", "no songs found"),
        ("jobs/fit_codebook.py --in songs --limit 0", "--limit"),
        ("jobs/generate.py --checkpoint nowhere --lyrics a --prompt b", "cannot be opened"),
        ("jobs/generate.py", "--checkpoint"),
        ("jobs/generate.py --checkpoint c --lyrics words.txt --prompt p --stream", "--stream writes .wav files"),
        ("jobs/generate.py --checkpoint c --lyrics words.txt --prompt p --continue-at 3", "without --continue"),
        ("model/train.py --config none.yaml", "none.yaml"),
        ("model/train.py --config miniature.yaml --set optimizer.knd=x", "did you mean 'kind'?"),
        ("model/train.py --config miniature.yaml --data empty", "index.parquet is missing"),
        ("-m shards verify nowhere", "nowhere"),
        ("-m pipeline.parity nowhere", "nowhere"),
        ("-m model.parity nowhere", "nowhere"),
    ],
)
def test_one_line_and_exit_code_2(run, tmp_path, command, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "songs").mkdir()
    (tmp_path / "words.txt").write_text("[verse] la la la")
    with wave.open(str(tmp_path / "songs" / "a.wav"), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(b"\1\2" * 16_000)
    script, *rest = command.split()
    place = f"{ROOT}/{script}" if script.endswith(".py") else script
    done = run(tmp_path, " ".join(["python", place, *rest]))
    assert done.returncode == 2, done.stdout + done.stderr
    lines = [line for line in done.stderr.strip().splitlines() if "WARNING" not in line]
    assert message in lines[-1]
    assert "Traceback" not in done.stderr
    assert len(lines) <= 2, done.stderr


@pytest.mark.parametrize(
    ("command", "stage", "model"),
    [
        ("jobs/clean_lyrics.py --in songs --profile full", "separator", "htdemucs"),
        ("jobs/clean_lyrics.py --in songs --asr large-v3", "asr", "large-v3"),
        ("jobs/extract_tokens.py --in songs --profile full", "muq", "OpenMuQ/MuQ-large-msd-iter"),
    ],
)
def test_a_missing_model_stops_a_job_before_any_work(run, tmp_path, command, stage, model):
    (tmp_path / "songs").mkdir()
    (tmp_path / "songs" / "a.wav").write_bytes(b"not even read")
    done = run(tmp_path, f"python {ROOT}/{command}", HF_HOME=str(tmp_path / "hub"))
    assert done.returncode == 2, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    for part in (repr(model), repr(stage), "Looked in", "(1)", "(2)", "(3)"):
        assert part in last
    assert not (tmp_path / "clean").exists()


def test_a_stub_of_json_is_no_manifest(run, tmp_path):
    (tmp_path / "songs.jsonl").write_text(json.dumps({"audio": "../x.mp3"}))
    done = run(tmp_path, f"python {ROOT}/jobs/clean_lyrics.py --in songs.jsonl")
    assert done.returncode == 2
    assert "outside" in done.stderr


def test_a_temporary_folder_with_a_long_name_is_told(run, tmp_path):
    """Ray's sockets lie there, and the path of a socket has 107 bytes at most."""
    long = tmp_path / ("t" * 80)
    long.mkdir()
    (tmp_path / "songs").mkdir()
    with wave.open(str(tmp_path / "songs" / "a.wav"), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(b"\1\2" * 16_000)
    done = run(tmp_path, f"python {ROOT}/jobs/clean_lyrics.py --in songs --out out", TMPDIR=str(long))
    assert done.returncode == 1, done.stderr
    assert "Ray cannot start" in done.stderr.splitlines()[-1]
    assert "set RAY_TMPDIR" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_ray_that_is_gone_is_told_at_once(run, tmp_path):
    (tmp_path / "songs").mkdir()
    (tmp_path / "songs" / "a.wav").write_bytes(b"not even read")
    started = time.monotonic()
    done = run(tmp_path, f"python {ROOT}/jobs/clean_lyrics.py --in songs --out out", RAY_ADDRESS="127.0.0.1:9")
    assert done.returncode == 1, done.stderr
    assert "nothing answers at RAY_ADDRESS=127.0.0.1:9" in done.stderr.splitlines()[-1]
    assert time.monotonic() - started < 30
