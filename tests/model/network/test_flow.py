"""Tests of model/network/flow.py."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.testing import assert_close

from model.network.flow import integrate, mix, velocity_error


def test_the_path_runs_from_data_to_noise() -> None:
    torch.manual_seed(0)
    clean, noise = torch.randn(2, 3, 4, 2)
    assert_close(
        mix(clean, noise, torch.tensor([0.0, 0.25, 1.0])),
        torch.stack([clean[0], 0.75 * clean[1] + 0.25 * noise[1], noise[2]]),
    )
    assert_close(velocity_error(noise - clean, clean, noise), torch.zeros(3))
    assert_close(velocity_error(noise - clean + 2, clean, noise), torch.full((3,), 4.0))


def test_mixing_is_float32_for_bfloat16_latents() -> None:
    clean, noise = torch.ones(1, 1, 1, dtype=torch.bfloat16), torch.zeros(1, 1, 1)
    assert_close(mix(clean, noise, torch.tensor([0.001])), torch.full((1, 1, 1), 0.999))


def test_steps_match_the_reference(shared: Path) -> None:
    parts = load_file(shared / "reference/dev_parts/tensors.safetensors")

    def velocity(point: Tensor, time: float) -> Tensor:
        return point @ parts["euler/A"] + time * parts["euler/c"]

    for num_steps in (1, 8, 36):
        found = integrate(velocity, parts["euler/noise"], num_steps)
        assert_close(found, parts[f"euler/steps{num_steps}"], rtol=1e-5, atol=1e-5)
    for temperature in (0.0, 0.25, 0.5, 0.9, 0.95, 1.0):
        found = integrate(velocity, parts["euler/noise"], 8, temperature=temperature, jump="reference")
        assert_close(found, parts[f"euler_temp/steps8_temp{temperature}"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("temperature", [0.0, 0.5, 0.9, 1.0])
def test_the_exact_jump_stays_on_a_straight_path(temperature: float) -> None:
    # Where every path is straight, the true velocity points at one clean value from anywhere.
    clean, noise = torch.full((1, 2, 2), 3.0), torch.randn(1, 2, 2, generator=torch.Generator().manual_seed(0))
    found = integrate(lambda point, time: (point - clean) / time, noise, 8, temperature=temperature)
    assert_close(found, clean)


def test_the_reference_jump_misses_it() -> None:
    clean, noise = torch.full((1, 2, 2), 3.0), torch.zeros(1, 2, 2)
    found = integrate(lambda point, _: torch.full_like(point, -3.0), noise, 8, temperature=0.5, jump="reference")
    assert not torch.allclose(found, clean)
