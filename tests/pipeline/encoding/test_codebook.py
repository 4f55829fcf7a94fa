"""The codebook: nearest code by cosine, files, and the fit on a stream."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.encoding.codebook import MODEL_TYPE, Codebook, CodebookError, Features, perplexity
from pipeline.encoding.codebook_fitter import CodebookFitter
from pipeline.model_files.errors import ModelFileError

DIM = 12


def make_codebook(codebook_size: int = 40, *, seed: int = 0) -> Codebook:
    generator = torch.Generator().manual_seed(seed)
    return Codebook(
        project_in=torch.randn(4, DIM, generator=generator),
        center=torch.randn(DIM, generator=generator),
        codes=torch.randn(codebook_size, 4, generator=generator),
        project_out=torch.randn(DIM, 4, generator=generator),
        bias_out=torch.randn(DIM, generator=generator),
        metadata={"muq_layer": 3},
    )


def make_features(count: int, *, seed: int = 0, num_clusters: int = 24) -> Features:
    """Clusters of unequal size in a few directions of a larger space, off the origin."""
    world = np.random.default_rng(7)
    centers = world.standard_normal((num_clusters, 5)) @ world.standard_normal((5, DIM)) * 3
    rng = np.random.default_rng(seed)
    which = rng.choice(num_clusters, count, p=np.arange(1, num_clusters + 1) / np.arange(1, num_clusters + 1).sum())
    features: Features = (centers[which] + 0.1 * rng.standard_normal((count, DIM)) + 5).astype(np.float32)
    return features


def make_fitter(**settings: float) -> CodebookFitter:
    defaults = {"feature_dim": DIM, "codebook_size": 32, "codebook_dim": 4, "step_vectors": 256, "dead_after_steps": 2}
    return CodebookFitter(CodebookFitter.Config(**(defaults | settings)))  # type: ignore[arg-type]


def fit(fitter: CodebookFitter, batches: list[Features], *, num_passes: int = 3) -> Codebook:
    for batch in batches:
        fitter.add_moments(batch)
    fitter.start()
    for _ in range(num_passes):
        for batch in batches:
            fitter.update(batch)
    fitter.finish_step()
    return fitter.codebook()


def test_encode_picks_the_largest_cosine() -> None:
    codebook, features = make_codebook(), make_features(50)
    projected = (features.astype(np.float64) - codebook.center.numpy()) @ codebook.project_in.numpy().T
    codes = codebook.codes.numpy().astype(np.float64)
    cosines = projected @ codes.T / np.linalg.norm(projected, axis=1, keepdims=True) / np.linalg.norm(codes, axis=1)
    ids, found = codebook.encode_with_cosines(features)
    assert ids.dtype == np.uint16
    assert (ids == cosines.argmax(axis=1)).all()
    np.testing.assert_allclose(found, cosines.max(axis=1), atol=1e-5)


def test_ids_do_not_depend_on_the_length_of_a_feature() -> None:
    codebook, features = make_codebook(), make_features(50)
    center = codebook.center.numpy()
    assert (codebook.encode(features) == codebook.encode(center + 7 * (features - center))).all()


def test_long_input_equals_its_parts() -> None:
    codebook, features = make_codebook(), make_features(3_000)
    parts = [codebook.encode(features[start : start + 700]) for start in range(0, 3_000, 700)]
    assert (codebook.encode(features) == np.concatenate(parts)).all()


@pytest.mark.parametrize(
    "features",
    [
        np.zeros((3, DIM + 1), np.float32),
        np.zeros(DIM, np.float32),
        np.zeros((3, DIM)),
        np.full((3, DIM), np.nan, np.float32),
    ],
    ids=["wide", "flat", "double", "nan"],
)
def test_wrong_features_are_refused(features: Features) -> None:
    with pytest.raises(CodebookError, match=r"expected float32|not finite"):
        make_codebook().encode(features)


def test_decode_refuses_ids_out_of_range() -> None:
    with pytest.raises(CodebookError, match="expected 0 to 39"):
        make_codebook().decode(np.array([0, 40]))


def test_save_and_load_change_no_id(tmp_path: Path) -> None:
    codebook, features = make_codebook(), make_features(500)
    codebook.save(tmp_path / "book")
    loaded = Codebook.load(tmp_path / "book")
    assert loaded.metadata == {"muq_layer": 3}
    assert torch.equal(loaded.codes, codebook.codes)
    assert (loaded.encode(features) == codebook.encode(features)).all()
    np.testing.assert_array_equal(loaded.decode(np.arange(40)), codebook.decode(np.arange(40)))


def test_float16_files_load_as_float32(tmp_path: Path) -> None:
    make_codebook().save(tmp_path, dtype=torch.float16)
    loaded = Codebook.load(tmp_path)
    assert {loaded.codes.dtype, loaded.project_in.dtype} == {torch.float32}
    np.testing.assert_allclose(loaded.codes.norm(dim=1), 1.0, atol=1e-6)


def damage_codes(tensors: dict[str, torch.Tensor]) -> None:
    tensors["codes"] = tensors["codes"][:, :3].contiguous()


def zero_code(tensors: dict[str, torch.Tensor]) -> None:
    tensors["codes"][5] = 0


def not_finite(tensors: dict[str, torch.Tensor]) -> None:
    tensors["center"][0] = float("nan")


def rename(tensors: dict[str, torch.Tensor]) -> None:
    tensors["extra"] = tensors.pop("bias_out")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_codes, r"codes has shape \(40, 3\), expected \(40, 4\)"),
        (zero_code, "none of them zero"),
        (not_finite, "center holds values that are not finite"),
        (rename, "bias_out"),
    ],
)
def test_damaged_weights_are_refused(tmp_path: Path, damage, message: str) -> None:  # type: ignore[no-untyped-def]
    make_codebook().save(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    damage(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ModelFileError, match=message):
        Codebook.load(tmp_path)


def test_config_that_disagrees_with_the_weights_is_refused(tmp_path: Path) -> None:
    make_codebook().save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"codebook_size": 41}))
    with pytest.raises(ModelFileError, match="codebook_size 41, the weights have 40"):
        Codebook.load(tmp_path)


def test_another_kind_of_model_is_refused(tmp_path: Path) -> None:
    make_codebook().save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_type"] == MODEL_TYPE
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "muq"}))
    with pytest.raises(ModelFileError, match="model_type 'muq', expected 'cosine_codebook'"):
        Codebook.load(tmp_path)


def test_it_is_ieee_float32_whatever_the_process_has_set(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    normalize = torch.nn.functional.normalize

    def note(*arguments: Any, **settings: Any) -> torch.Tensor:
        found.append((torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()))
        return normalize(*arguments, **settings)

    codebook, features = make_codebook(), make_features(3)
    monkeypatch.setattr(torch.nn.functional, "normalize", note)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        codebook.encode(features)
        codebook.project(features)
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
    assert found == [(False, "highest")] * 2


def test_metadata_that_is_no_object_is_refused(tmp_path: Path) -> None:
    make_codebook().save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"metadata": [1, 2]}))
    with pytest.raises(ModelFileError, match=r"metadata \[1, 2\], expected an object"):
        Codebook.load(tmp_path)


def test_truncated_weights_are_refused(tmp_path: Path) -> None:
    make_codebook().save(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ModelFileError, match=r"model\.safetensors"):
        Codebook.load(tmp_path)


def test_measure_knows_a_perfect_and_a_useless_codebook() -> None:
    codebook = make_codebook()
    perfect = codebook.decode(np.arange(40))
    # Encoding must land on the same code: then the error is zero and all codes are used alike.
    codebook.project_in = torch.linalg.pinv(codebook.project_out)
    codebook.center = codebook.bias_out
    report = codebook.measure([perfect[:10], perfect[10:]])
    assert report.num_vectors == 40
    assert report.usage == 1.0
    assert report.perplexity == pytest.approx(40)
    assert report.reconstruction_error < 1e-9
    assert report.mean_cosine == pytest.approx(1)
    codebook.project_out = torch.zeros_like(codebook.project_out)
    assert codebook.measure([perfect]).reconstruction_error == pytest.approx(1)
    with pytest.raises(CodebookError, match="no features"):
        codebook.measure([])


def test_perplexity() -> None:
    assert perplexity(np.array([5, 5, 0, 5, 5])) == pytest.approx(4)
    assert perplexity(np.array([0, 0])) == 0


def test_fit_lowers_the_error_on_new_features() -> None:
    batches = [make_features(400, seed=seed) for seed in range(8)]
    fitter = make_fitter()
    for batch in batches:
        fitter.add_moments(batch)
    fitter.start()
    held_out = [make_features(1_000, seed=99)]
    before = fitter.codebook().measure(held_out)
    for batch in batches * 3:
        fitter.update(batch)
    after, running = fitter.codebook().measure(held_out), fitter.report()
    assert after.reconstruction_error < 0.8 * before.reconstruction_error
    assert after.mean_cosine > before.mean_cosine
    assert running.num_vectors == 24 * 400
    assert running.reconstruction_error == pytest.approx(after.reconstruction_error, rel=0.5)
    assert running.usage > 0.5


def test_dead_codes_are_revived() -> None:
    fitter = make_fitter()
    fitter.add_moments(make_features(2_000, num_clusters=2))  # all codes start in two places
    fitter.start()
    others = make_features(4_000, seed=3)
    assert fitter.codebook().measure([others]).usage < 0.7
    for _ in range(5):
        fitter.update(others)
    assert fitter.codebook().measure([others]).usage > 0.9


def test_fewer_features_than_codes() -> None:
    few = make_features(10)
    codebook = fit(make_fitter(), [few], num_passes=2)
    assert codebook.measure([few]).reconstruction_error < 0.2
    assert np.isfinite(codebook.codes.numpy()).all()


def test_equal_features_do_not_break_the_fit() -> None:
    codebook = fit(make_fitter(), [np.ones((600, DIM), np.float32)])
    np.testing.assert_allclose(codebook.decode(codebook.encode(np.ones((1, DIM), np.float32))), 1, atol=1e-3)


def test_fit_is_deterministic_and_follows_the_seed() -> None:
    batches = [make_features(400, seed=seed) for seed in range(4)]
    first, second = fit(make_fitter(), batches), fit(make_fitter(), batches)
    assert torch.equal(first.codes, second.codes)
    assert torch.equal(first.project_out, second.project_out)
    assert not torch.equal(first.codes, fit(make_fitter(seed=1), batches).codes)


def test_fit_does_not_depend_on_the_cut_into_batches() -> None:
    features = make_features(1_600)
    whole, cut = make_fitter(), make_fitter()
    fit(whole, [features])
    fit(cut, [features[:100], features[100:101], features[101:900], features[900:]])
    np.testing.assert_allclose(whole.codebook().codes, cut.codebook().codes, atol=1e-5)


@pytest.mark.parametrize("stop", [0, 1, 3, 5, 7])
def test_restore_goes_on_where_the_state_was_taken(stop: int) -> None:
    batches = [make_features(300, seed=seed) for seed in range(4)]

    def run(fitter: CodebookFitter, first: int, last: int) -> CodebookFitter:
        for index in range(first, last):
            if index < 4:
                fitter.add_moments(batches[index])
            else:
                fitter.update(batches[index - 4])
            if index == 3:
                fitter.start()
        return fitter

    whole = run(make_fitter(), 0, 8)
    resumed = make_fitter()
    resumed.restore(run(make_fitter(), 0, stop).state())
    run(resumed, stop, 8)
    assert torch.equal(whole.codebook().codes, resumed.codebook().codes)
    assert whole.report() == resumed.report()


def test_workers_add_up_to_one_fit() -> None:
    batches = [make_features(256, seed=seed) for seed in range(4)]
    workers = [make_fitter(stream=stream) for stream in range(2)]
    for index, batch in enumerate(batches):
        workers[index % 2].add_moments(batch)
    driver, alone = make_fitter(), make_fitter()
    for worker in workers:
        driver.merge_moments(worker)
    alone.add_moments(np.concatenate(batches))
    driver.start()
    alone.start()
    np.testing.assert_allclose(driver.codebook().center, alone.codebook().center, atol=1e-5)
    np.testing.assert_allclose(driver.codebook().project_in, alone.codebook().project_in, atol=1e-3)
    statistics = driver.collect(batches[0], offset=0)
    statistics.merge(driver.collect(batches[1], offset=256))
    together = driver.collect(np.concatenate(batches[:2]), offset=0)
    np.testing.assert_array_equal(statistics.counts, together.counts)
    np.testing.assert_allclose(statistics.revivals, together.revivals, atol=1e-6)
    driver.apply(statistics)
    assert driver.report().usage > 0


def test_calls_out_of_order_are_refused() -> None:
    fitter = make_fitter()
    with pytest.raises(CodebookError, match="call add_moments"):
        fitter.update(make_features(4))
    with pytest.raises(CodebookError, match="at least 2"):
        fitter.start()
    fitter.add_moments(make_features(4))
    fitter.start()
    with pytest.raises(CodebookError, match="the projection is fixed"):
        fitter.add_moments(make_features(4))
    with pytest.raises(CodebookError, match="feature_dim 12, expected 13"):
        make_fitter(feature_dim=13).restore(fitter.state())
    with pytest.raises(CodebookError, match=r"codes \(32, 4\), expected \(33, 4\)"):
        make_fitter(codebook_size=33).restore(fitter.state())


@pytest.mark.parametrize("settings", [{"codebook_dim": DIM + 1}, {"codebook_size": 1}, {"min_rate": 0.0}])
def test_wrong_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(CodebookError, match=r"expected|out of range"):
        make_fitter(**settings)
