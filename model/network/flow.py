"""Rectified flow (arXiv:2209.03003): the straight path from data to noise, and the way back.

Shape legend: N blocks, P frames per block, C latent channels. Time 0 is clean, time 1 is pure noise. Everything here
is float32: at bfloat16 the 36 steps of a released sampler would no longer be evenly spaced.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor


def mix(clean_NPC: Tensor, noise_NPC: Tensor, time_N: Tensor) -> Tensor:
    """Return the point of each block's path at its time."""
    time_N11 = time_N.float()[:, None, None]
    return (1 - time_N11) * clean_NPC.float() + time_N11 * noise_NPC.float()


def velocity_error(velocity_NPC: Tensor, clean_NPC: Tensor, noise_NPC: Tensor) -> Tensor:
    """Return each block's mean squared error against the true velocity, `noise - clean`."""
    return (velocity_NPC.float() - (noise_NPC.float() - clean_NPC.float())).square().mean(dim=(1, 2))


def integrate(
    velocity: Callable[[Tensor, float], Tensor],
    noise: Tensor,
    num_steps: int,
    *,
    temperature: float = 1.0,
    jump: Literal["exact", "reference"] = "exact",
) -> Tensor:
    """Follow the velocity from noise to data with evenly spaced Euler steps.

    Args:
        velocity: maps a point and its time to the velocity there.
        noise: where the path starts; standard normal.
        num_steps: Euler steps from time 1 to time 0.
        temperature: below 1, start from zeros, which costs diversity, and meet `noise` only in the step that crosses
            this time: from the data estimated there, jump to the path of that estimate and `noise`.
        jump: how that data is estimated. exact: x - time * velocity. reference: x - velocity, as the public sampler.
    """
    times = torch.linspace(1, 0, num_steps + 1).tolist()
    point = noise if temperature >= 1 else torch.zeros_like(noise)
    for time, next_time in zip(times[:-1], times[1:], strict=True):
        slope = velocity(point, time)
        if time > temperature >= next_time:
            clean = point - (time if jump == "exact" else 1.0) * slope
            point = (1 - next_time) * clean + next_time * noise
        else:
            point = point + (next_time - time) * slope
    return point
