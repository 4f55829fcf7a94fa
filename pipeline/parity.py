"""Agreement with reference numbers: `python -m pipeline.parity FIXTURE`.

FIXTURE is a folder of a VAE (config.json, weights, inputs.safetensors, expected.safetensors) or a `.jsonl` file of
phonemes. The last line is one JSON object. Exit code 0: all within tolerance; 1: not; 2: wrong use.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from pipeline.encoding.vae_latents import VaeCodec
from pipeline.model_files.errors import ModelError

VAE_TOLERANCE = 1e-4  # largest error over largest value, float32; the order of sums alone gives about 1e-6


class FixtureError(ValueError):
    """A fixture that is not laid out as expected."""


def check_vae(folder: Path) -> dict[str, Any]:
    """Encode and decode the fixture's inputs and return the relative error of each quantity.

    Args:
        folder: `inputs` holds audio [B, 2, L] and latent [B, C, T]; `expected` holds mean, std [B, C, T] and
            decoded [B, 2, L].
    """
    inputs = _read_arrays(folder / "inputs.safetensors", {"audio": 3, "latent": 3})
    expected = _read_arrays(folder / "expected.safetensors", {"mean": 3, "std": 3, "decoded": 3})
    codec = VaeCodec(folder)
    posteriors = [codec.encode(audio) for audio in inputs["audio"]]
    found = {
        "mean": np.stack([mean.T for mean, _ in posteriors]),
        "std": np.stack([std.T for _, std in posteriors]),
        "decoded": np.stack([codec.decode(np.ascontiguousarray(latent.T)) for latent in inputs["latent"]]),
    }
    errors = {name: relative_error(found[name], expected[name], name) for name in found}
    return {
        "fixture": folder.name,
        "relative_errors": errors,
        "tolerance": VAE_TOLERANCE,
        "ok": all(error <= VAE_TOLERANCE for error in errors.values()),
    }


def relative_error(found: NDArray[np.float32], expected: NDArray[np.float32], name: str) -> float:
    """Return the largest absolute error over the largest absolute value expected; finite, since JSON knows no NaN."""
    if found.shape != expected.shape:
        raise FixtureError(f"{name} has shape {found.shape}, the fixture expects {expected.shape}")
    error = float(np.abs(found - expected).max()) / max(float(np.abs(expected).max()), 1e-12)
    return error if math.isfinite(error) else sys.float_info.max


def _read_arrays(path: Path, num_axes: dict[str, int]) -> dict[str, NDArray[np.float32]]:
    try:
        arrays: dict[str, NDArray[np.float32]] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise FixtureError(f"{path}: {error}") from error
    for name, axes in num_axes.items():
        if name not in arrays or arrays[name].ndim != axes or arrays[name].dtype != np.float32 or not arrays[name].size:
            found = f"{arrays[name].dtype} {arrays[name].shape}" if name in arrays else "nothing"
            raise FixtureError(f"{path}: {name} is {found}, expected float32 with {axes} axes")
        if not np.isfinite(arrays[name]).all():
            raise FixtureError(f"{path}: {name} holds values that are not finite")
    return arrays


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.parity", description="Agreement with reference numbers.")
    parser.add_argument("fixture", type=Path, help="folder of a VAE fixture, or a .jsonl file of phonemes")
    fixture: Path = parser.parse_args(arguments).fixture
    try:
        if fixture.is_dir():
            result = check_vae(fixture)
        elif fixture.is_file() and fixture.suffix == ".jsonl":
            from pipeline.phonemes.fixtures import check_g2p

            result = check_g2p(fixture)
        else:
            parser.error(f"{fixture}: expected a folder of a VAE fixture or a .jsonl file")
    except (ValueError, ModelError) as error:  # what the pipeline raises for input that it cannot use
        parser.error(str(error))
    sys.stdout.write(json.dumps(result) + "\n")
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
