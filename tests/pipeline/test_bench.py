"""The benchmark of the encoders: both sides give the same, and it says what is missed."""

import json
import subprocess
from dataclasses import replace

import numpy as np
import pytest

from pipeline import bench


def test_both_sides_do_the_same_work_and_figures_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    code = bench.main(["--seconds", "1.5", "--rounds", "1"])
    lines = capsys.readouterr().out.splitlines()
    result = json.loads(lines[-1])
    assert [line.split()[0] for line in lines[:-1]] == list(bench.ENCODERS)
    assert code == (0 if result["ok"] else 1)
    for name in bench.ENCODERS:
        assert result[name]["ratio"] > 0
        assert result[name]["max_difference"] < 1e-3
        assert (f"{name} ratio" in result["missed"]) == (result[name]["ratio"] < 1)


def test_memory_beyond_the_target_is_missed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: bench.Path
) -> None:
    peaks = iter([3.9, 4.1])

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert command[3:5] == ["--probe", "vae"]
        assert bench.decode_audio(bench.Path(command[5])).duration_s == pytest.approx(30)
        return subprocess.CompletedProcess(command, 0, json.dumps({"peak_gb": next(peaks), "wall_s": 1.0}))

    monkeypatch.setattr(bench.subprocess, "run", run)
    arguments = ["--only", "vae", "--rounds", "0", "--memory-minutes", "0.5", "--scratch", str(tmp_path)]
    assert bench.main(arguments) == 0
    assert bench.main(arguments) == 1
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["missed"] == ["vae memory"]


def test_audio_is_made_up_alike_every_time() -> None:
    audio = bench.make_audio(12.5)
    assert audio.shape == (2, 312 * 1_920)
    assert 0.05 < np.abs(audio).max() < 1
    np.testing.assert_array_equal(audio, bench.make_audio(12.5))


@pytest.mark.parametrize("arguments", [["--seconds", "0"], ["--rounds", "-1"], ["--only", "whisper"]])
def test_wrong_use(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        bench.main(arguments)
    assert raised.value.code == 2


@pytest.mark.parametrize("arguments", [["--only", "tokens", "vae"], ["--probe", "tokens", "x.flac"]])
def test_a_model_that_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    lacking = replace(bench.get_profile("miniature"), codebook="no-such-codebook")
    monkeypatch.setattr(bench, "get_profile", lambda _: lacking)
    assert bench.main(arguments) == 2
    assert "model 'no-such-codebook' for stage 'codebook' not found" in capsys.readouterr().err


def test_a_probe_loads_only_what_it_measures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: bench.Path
) -> None:
    lacking = replace(bench.get_profile("miniature"), codebook="no-such-codebook")
    monkeypatch.setattr(bench, "get_profile", lambda _: lacking)
    bench.soundfile.write(tmp_path / "x.flac", bench.make_audio(1.0).T, 48_000)
    for name in ("separator", "vae"):
        assert bench.main(["--probe", name, str(tmp_path / "x.flac")]) == 0
        assert json.loads(capsys.readouterr().out).keys() == {"peak_gb", "wall_s"}
