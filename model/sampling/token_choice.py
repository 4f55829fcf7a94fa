"""From logits to the next semantic token: repetition penalty, temperature, truncation, and one uniform number.

Shape legend: A songs, V ids (codes and EOS), W tokens of the penalty window.
"""

import torch
from torch import Tensor

from model.sampling.sampling_config import Penalty, SamplingConfig


def choose_tokens(logits_AV: Tensor, uniform_A: Tensor, config: SamplingConfig) -> Tensor:
    """Pick one id per song: temperature, truncation to likely ids, then `choose`."""
    if config.temperature == 0:
        return logits_AV.argmax(dim=-1)
    probs_AV = (logits_AV / config.temperature).softmax(dim=-1)
    if config.top_p:
        probs_AV = keep_top_p(probs_AV, config.top_p)
    elif config.top_k:
        probs_AV = keep_top_k(probs_AV, config.top_k)
    return choose(probs_AV, uniform_A)


def penalise_repeats(logits_AV: Tensor, recent_AW: Tensor, penalty: float, kind: Penalty) -> Tensor:
    """Make every code in `recent_AW` less likely; the last id, EOS, is exempt, so EOS may fill an unused window.

    Args:
        logits_AV: after guidance.
        recent_AW: the last tokens of each song.
        penalty: 1 changes nothing.
        kind: by_sign divides positive logits and multiplies negative ones (CTRL, arXiv:1909.05858). divide divides
            all, so that negative logits gain, as the public sampler does.
    """
    is_recent = torch.zeros_like(logits_AV, dtype=torch.bool).scatter(1, recent_AW, True)
    is_recent[:, -1] = False
    lowered = logits_AV / penalty
    if kind == "by_sign":
        lowered = torch.where(logits_AV > 0, lowered, logits_AV * penalty)
    return torch.where(is_recent, lowered, logits_AV)


def keep_top_k(probs_AV: Tensor, top_k: int) -> Tensor:
    """Keep the `top_k` most likely ids, and any as likely as the last of these; renormalise."""
    floor = probs_AV.topk(min(top_k, probs_AV.shape[-1]), dim=-1).values[:, -1:]
    kept = probs_AV.masked_fill(probs_AV < floor, 0)
    return kept / kept.sum(dim=-1, keepdim=True)


def keep_top_p(probs_AV: Tensor, top_p: float) -> Tensor:
    """Keep an id while the ids more likely than it hold at most `top_p` of the probability; renormalise."""
    ordered, order = probs_AV.sort(dim=-1, descending=True)
    mass_before = ordered.cumsum(dim=-1) - ordered
    kept = torch.zeros_like(probs_AV).scatter(1, order, ordered.masked_fill(mass_before > top_p, 0))
    return kept / kept.sum(dim=-1, keepdim=True)


def choose(probs_AV: Tensor, uniform_A: Tensor) -> Tensor:
    """Return the id where the running sum of probabilities reaches `uniform_A`, in (0, 1]; float64."""
    cumulative_AV = probs_AV.double().cumsum(dim=-1)
    reached = uniform_A.double()[:, None] * cumulative_AV[:, -1:]
    return torch.searchsorted(cumulative_AV, reached).squeeze(1)
