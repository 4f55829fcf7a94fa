"""Training loops of the miniatures: two steps of each end in files that the pipeline's own loaders read."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.encoding.codebook import Codebook
from pipeline.encoding.semantic_tokens import SemanticTokenizer
from pipeline.encoding.vae_latents import VaeCodec
from pipeline.miniatures.training import codebook, muq, quality, separator, vae
from pipeline.miniatures.training.corpus import Stems, load_corpus
from pipeline.miniatures.training.loop import Schedule, TrainingError, fit
from pipeline.model_files.names import MINIATURE_FOLDER
from pipeline.separation.demucs_weights import load_separator

TWO_STEPS = Schedule(steps=2, peak_lr=1e-4, warmup_steps=1)


@pytest.fixture(scope="module")
def songs() -> list[Stems]:
    rng = np.random.default_rng(0)
    t = np.arange(9 * 48000) / 48000
    voice = np.tile(0.2 * np.sin(2 * np.pi * 220 * t), (2, 1)).astype(np.float32)
    return [Stems(name="tone", vocals=voice, accompaniment=(0.1 * rng.standard_normal(voice.shape)).astype(np.float32))]


def test_separator_trains_into_a_loadable_model(
    songs: list[Stems], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(separator, "CROP_S", 0.5)
    monkeypatch.setattr(separator, "BATCH_SONGS", 1)
    separator.train(songs, tmp_path, seed=0, schedule=TWO_STEPS)
    assert load_separator(tmp_path).sources == ["accompaniment", "vocals"]


def test_vae_trains_into_a_loadable_model(songs: list[Stems], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vae, "BATCH_CROPS", 1)
    vae.train(songs, tmp_path, seed=0, schedule=TWO_STEPS)
    codec, audio = VaeCodec(tmp_path), songs[0].vocals[:, : 50 * 1920]
    mean, std = codec.encode(audio)
    assert mean.shape == std.shape == (50, 64)
    decoded = codec.decode(mean)
    # The linear start alone already carries a strong low tone through; a wrong weight anywhere would not.
    assert np.corrcoef(audio[:, 9600:-9600].ravel(), decoded[:, 9600:-9600].ravel())[0, 1] > 0.95


def test_muq_and_codebook_do_not_hear_the_level(
    songs: list[Stems], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(muq, "BATCH_CROPS", 1)
    muq.train(songs, tmp_path / "muq", seed=0, schedule=TWO_STEPS)
    report = codebook.train(songs, tmp_path / "codebook", muq_folder=tmp_path / "muq", seed=0, passes=1)
    assert 0 < report.usage <= 225 / 16384
    assert Codebook.load(tmp_path / "codebook").metadata["muq_layer"] == 3
    tokenizer = SemanticTokenizer(tmp_path / "muq", None, layer=3)
    tokenizer.setup()
    audio = muq.to_input(songs[0].mix)
    plain, loud = tokenizer.features(audio, 225), tokenizer.features((1.4 * audio).astype(np.float32), 225)
    # Away from the ends, where time is padded too; float16 weights sum to zero only nearly.
    assert np.abs(plain - loud)[50:-50].max() < 0.01 * np.abs(plain).max()


def test_a_loss_that_is_not_finite_stops_training() -> None:
    model = torch.nn.Linear(1, 1)
    with pytest.raises(TrainingError, match="step 0"):
        fit(model, lambda _: (model(torch.full((1, 1), float("nan"))).sum(), {}), TWO_STEPS)


def test_an_empty_folder_has_no_songs(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no songs"):
        load_corpus([tmp_path])


def test_shipped_miniatures_keep_their_promises(shared: Path, tmp_path: Path) -> None:
    """One song of ten, cut to 20 s; the README has the figures of all."""
    assert sum(path.stat().st_size for path in MINIATURE_FOLDER.rglob("*") if path.is_file()) <= 12e6
    (tmp_path / "song").symlink_to(shared / "songs" / "dev" / "dev_01_en_slt")
    (song,) = load_corpus([tmp_path])
    cut = Stems(
        name=song.name, vocals=song.vocals[:, 480_000:1_440_000], accompaniment=song.accompaniment[:, 480_000:1_440_000]
    )
    assert quality.measure_separator([cut], MINIATURE_FOLDER / "separator")["mean_gain_db"] > 5
    assert quality.measure_vae([cut], MINIATURE_FOLDER / "vae")["chroma_correlation"] > 0.9
    tokens = quality.measure_tokens([cut], MINIATURE_FOLDER / "muq", MINIATURE_FOLDER / "codebook")
    assert tokens["equal_after_gain"] > 0.9
    report = json.loads((MINIATURE_FOLDER / "codebook" / "config.json").read_text())["report"]
    assert report["usage"] >= 0.8
