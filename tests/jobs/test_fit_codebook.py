"""The codebook job: the same bytes with any number of workers and after kill -9, in bounded memory."""

import json
import signal
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from threadpoolctl import threadpool_limits

from jobs.fit_codebook import FRAMES_PER_SONG, PROGRESS, draw_songs, fit
from pipeline.catalogue.inputs import SongInput
from pipeline.encoding.codebook import Codebook
from pipeline.encoding.codebook_fitter import CodebookFitter

from .crash_codebook import fork
from .crash_codebook import run as run_fit

NUM_SONGS = 5


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As the command has it below: sums over other numbers of threads differ in their last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):  # of NumPy's BLAS
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("raw")
    rng = np.random.default_rng(0)
    for number in range(NUM_SONGS):
        tones = np.sin(2 * np.pi * 110 * (number + 1) * np.arange(24_000 * 3) / 24_000)
        soundfile.write(folder / f"{number}.wav", 0.3 * tones + 0.05 * rng.standard_normal(len(tones)), 24_000)
    (folder / "broken.wav").write_bytes(b"no audio" * 100)
    return folder


@pytest.fixture(scope="module")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run that nobody disturbed leaves."""
    out: Path = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        run_fit(source, out, patch=patch.setattr)
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_reports_how_good_the_codebook_is(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    totals = run_fit(source, tmp_path, patch=monkeypatch.setattr)
    assert totals["songs"] == NUM_SONGS
    assert list(totals["failed"]) == ["broken"]
    report = totals["report"]
    assert report["num_vectors"] == NUM_SONGS * 75
    assert 0 < report["usage"] <= NUM_SONGS * 75 / 16_384
    assert 1 < report["perplexity"] < NUM_SONGS * 75 + 1e-6
    assert 0 <= report["reconstruction_error"] < 0.5
    assert json.loads((tmp_path / "config.json").read_text())["report"] == report
    assert set(contents(tmp_path)) == {"config.json", "model.safetensors"}
    assert Codebook.load(tmp_path).codebook_size == 16_384


@pytest.mark.parametrize("order", [1, 2])
def test_order_of_the_workers_changes_nothing(
    source: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: int
) -> None:
    run_fit(source, tmp_path, order=order, patch=monkeypatch.setattr)
    assert contents(tmp_path) == contents(whole)


@pytest.mark.parametrize(
    "where", [{"after_songs": 2}, {"after_updates": NUM_SONGS + 2}], ids=["features", "second epoch"]
)
def test_killed_and_started_again_gives_the_same_codebook(
    source: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: dict[str, int]
) -> None:
    assert fork(source, tmp_path, **where) == signal.SIGKILL
    kept = [path.name for path in (tmp_path / PROGRESS).rglob("*") if path.is_file()]
    assert ("fitter.npz" in kept) == ("after_updates" in where)
    assert 0 < len([name for name in kept if name.endswith(".npy")]) <= NUM_SONGS
    run_fit(source, tmp_path, order=3, patch=monkeypatch.setattr)
    assert contents(tmp_path) == contents(whole)


def test_features_of_a_file_that_changed_are_not_taken_up(
    source: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    raw.mkdir()
    for path in source.glob("*.wav"):
        (raw / path.name).write_bytes(path.read_bytes())
    assert fork(raw, out, after_songs=5) == signal.SIGKILL
    soundfile.write(raw / "0.wav", 0.3 * np.random.default_rng(1).standard_normal(24_000 * 3), 24_000)
    run_fit(raw, out, patch=monkeypatch.setattr)
    assert contents(out) != contents(whole)


def test_memory_does_not_grow_with_the_catalogue(tmp_path: Path) -> None:
    """Features are read file by file: four times the files take no more."""
    config = CodebookFitter.Config(feature_dim=64, codebook_dim=4, codebook_size=16, step_vectors=512)
    rng, peaks = np.random.default_rng(0), []
    files = [tmp_path / f"{number:02d}.npy" for number in range(80)]
    for path in files:
        np.save(path, rng.standard_normal((1_000, 64)).astype(np.float16))
    for count in (20, 80):
        tracemalloc.start()
        fit(files[:count], config, 1, tmp_path / f"{count}.npz")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]
    assert peaks[1] < 80 * 1_000 * 64 * 2 / 2  # half of all features


def test_a_large_catalogue_is_sampled() -> None:
    songs = [SongInput(f"{number:07d}", Path(f"{number}.mp3"), f"{number}.mp3") for number in range(5_000)]
    drawn = draw_songs(songs, 1_000 * FRAMES_PER_SONG, seed=0)
    ids = [song.song_id for song in drawn]
    assert len(ids) == len(set(ids)) == 1_000
    assert ids == sorted(ids)
    assert ids == [song.song_id for song in draw_songs(songs[::-1], 1_000 * FRAMES_PER_SONG, seed=0)]
    assert ids != [song.song_id for song in draw_songs(songs, 1_000 * FRAMES_PER_SONG, seed=1)]
    assert sum(number < "0002500" for number in ids) == pytest.approx(500, abs=75)  # from everywhere
    assert len(draw_songs(songs, 256 * 16_384, seed=0)) == 5_000
    assert len(draw_songs(songs, 1, seed=0)) == 1


def test_the_command_over_ray_gives_the_same_codebook(run, source: Path, whole: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    command = f"python {Path(__file__).resolve().parents[2]}/jobs/fit_codebook.py --in {source} --out {tmp_path}"
    command += " --max-vectors 10000 --codebook-dim 8 --epochs 3 --workers 2"
    done = run(tmp_path.parent, command, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["songs"] == NUM_SONGS
    assert contents(tmp_path) == contents(whole)
