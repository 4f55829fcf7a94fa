"""A song through every command in profile full: models fetched from a hub that serves the published layouts.

The weights are ours (tests/hub/published/README.md): htdemucs hands the mix on, large-v3 is Whisper base with 128 mel
bands, the others hold random numbers. What the commands do with real weights of these shapes is what is shown, not what
comes out.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from pipeline.audio.decode import decode_audio
from shards.dataset_info import read_dataset_info
from shards.reader import ShardReader

ROOT = Path(__file__).resolve().parents[2]
SONG = ROOT / "jobs" / "demo_songs" / "01_clean"
LINES = "The baker leaves the window open wide\nAnd all the winter sunlight walks inside\n"
DURATION_S = 13.2  # where these two lines end


@pytest.fixture
def user(full_hub, environment, tmp_path) -> Callable[..., dict]:
    """Return a function that runs a command as a user types it, and returns its last line."""
    variables = environment | full_hub.environment | {"SONGBLOOM_PROFILE": "full", "OMP_NUM_THREADS": "2"}
    variables |= {"HOME": environment["HOME"], "XDG_CACHE_HOME": str(tmp_path / "cache")}

    def run(command: str, code: int = 0, **changes: str) -> dict:
        done = subprocess.run(
            [sys.executable, *command.split()],
            cwd=tmp_path,
            env=variables | changes,
            capture_output=True,
            text=True,
            timeout=540,
            check=False,
        )
        assert done.returncode == code, done.stderr[-4000:]
        assert "Traceback" not in done.stderr
        assert "You should probably TRAIN" not in done.stderr
        last = done.stdout.strip().splitlines()[-1:] or [json.dumps({"error": done.stderr.strip().splitlines()[-1]})]
        return json.loads(last[0])

    return run


def lay_out(raw: Path) -> None:
    raw.mkdir()
    decoded = decode_audio(SONG / "mixture.opus")
    soundfile.write(
        raw / "song.wav", decoded.samples[:, : int(DURATION_S * decoded.sample_rate)].T, decoded.sample_rate
    )
    (raw / "song.txt").write_text(LINES)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.demo_weights
def test_a_song_goes_through_every_command_of_profile_full(user, tmp_path):
    lay_out(tmp_path / "raw")
    offline = {"HF_HUB_OFFLINE": "1"}

    missing = user(f"{ROOT}/jobs/clean_lyrics.py --language en", code=2, **offline)["error"]
    assert "model 'htdemucs' for stage 'separator' not found" in missing
    assert "python jobs/models.py fetch" in missing
    assert not (tmp_path / "clean").exists(), "before any work"

    fetched = user(f"{ROOT}/jobs/models.py fetch --languages en")
    assert not fetched["missing"]
    checked = user(f"{ROOT}/jobs/doctor.py --languages en", **offline)
    assert checked["failed"] == 0

    # From here on nothing is asked of a hub.
    stats = user(f"{ROOT}/jobs/clean_lyrics.py --language en --workers 1", **offline)
    assert (stats["kept"], stats["failed"], stats["quarantined"]) == (1, 0, 0), stats
    (row,) = pq.read_table(tmp_path / "clean" / "songs.parquet").to_pylist()
    assert [line["text"] for line in row["lines"]] == LINES.splitlines()
    run = json.loads((tmp_path / "clean" / "run.json").read_text())
    assert set(run["models"]) == {"separator", "asr", "verifier", "aligner"}
    assert str(tmp_path) not in json.dumps(run), "where models lie is not what identifies a run"

    fitted = user(f"{ROOT}/jobs/fit_codebook.py --workers 1 --epochs 1", **offline)
    assert fitted["report"]["num_vectors"] == int(DURATION_S * 25)
    extracted = user(f"{ROOT}/jobs/extract_tokens.py --workers 1", **offline)
    assert (extracted["songs"], extracted["failed"]) == (1, {})
    models = read_dataset_info(tmp_path / "shards").models
    assert models["muq"]["name"] == "OpenMuQ/MuQ-large-msd-iter"
    assert models["vae"]["name"] == "CypressYang/SongBloom"
    assert models["settings"]["float32"] == "ieee"
    (sample,) = ShardReader(tmp_path / "shards").iterate("train/000000.tar")
    assert sample.latents.shape == (int(DURATION_S * 25), 64)
    assert np.isfinite(sample.latents).all()
    assert len(np.unique(sample.semantic_tokens)) > 100, "a codebook of its own song tells its frames apart"
    assert str(tmp_path) not in json.dumps(sample.metadata)

    steps = "--set schedule.num_steps=2 --set schedule.warmup_steps=1 --set checkpoint.every=2"
    trained = user(f"{ROOT}/model/train.py --config miniature.yaml {steps}", **offline)
    assert trained["steps"] == 2
    shutil.copy(tmp_path / "raw" / "song.txt", tmp_path / "words.txt")
    written = user(
        f"{ROOT}/jobs/generate.py --checkpoint runs/miniature --lyrics words.txt --prompt raw/song.wav --seconds 3 "
        "--min-seconds 3 --steps 2",
        **offline,
    )
    assert (written["device"], written["dtype"]) == ("cpu", "fp32")
    samples, rate = soundfile.read(tmp_path / "song.flac")
    assert (rate, samples.shape[1]) == (48_000, 2)
    assert len(samples) == pytest.approx(3 * rate, abs=0.64 * rate)
