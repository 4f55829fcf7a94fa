"""LoRA (arXiv:2106.09685): train a low-rank correction of each matrix of attention and feed-forward, not the matrix.

Shape legend: R rank, I inputs, O outputs.

The adapters are parameters beside the weights they correct, so that these keep their names in checkpoints and a merged
model is an ordinary one. Wrapping modules, as `peft` does, renames every weight underneath.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from model.attention import GatedFeedForward, SelfAttention
from model.song_model import SongModel

ADAPTER_NAMES = ("lora_down_RI", "lora_up_OR")


class LowRankLinear(nn.Linear):
    """y = W x + (alpha / rank) up down x, without bias; `up` starts at zero, so nothing changes before training."""

    def __init__(self, layer: nn.Linear, rank: int, alpha: float) -> None:
        """Take over the weight of `layer`, frozen."""
        super().__init__(layer.in_features, layer.out_features, bias=False, device="meta")
        weight = layer.weight.detach()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.scale = alpha / rank
        self.lora_down_RI = nn.Parameter(weight.new_empty(rank, layer.in_features))
        self.lora_up_OR = nn.Parameter(weight.new_zeros(layer.out_features, rank))
        nn.init.kaiming_uniform_(self.lora_down_RI, a=math.sqrt(5))  # as the paper's own code

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., I] to [..., O]."""
        return linear(x, self.weight) + linear(linear(x, self.lora_down_RI), self.lora_up_OR) * self.scale

    @torch.no_grad()
    def merge(self) -> nn.Linear:
        """Return one ordinary layer that does the same."""
        merged = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        merged.weight = nn.Parameter(self.weight + self.scale * self.lora_up_OR @ self.lora_down_RI)
        return merged


def add_adapters(model: SongModel, rank: int, alpha: float) -> None:
    """Freeze the matrices of attention and feed-forward in both stacks and give each an adapter."""
    for parent, name, layer in _find_matrices(model):
        setattr(parent, name, LowRankLinear(layer, rank, alpha))


def merge_adapters(model: SongModel) -> None:
    """Add every adapter into its matrix; the model is then one without adapters."""
    for parent, name, layer in _find_matrices(model):
        if isinstance(layer, LowRankLinear):
            setattr(parent, name, layer.merge())


def _find_matrices(model: SongModel) -> list[tuple[nn.Module, str, nn.Linear]]:
    """Return the linear layers of all attention and feed-forward modules, with their owner and their name there."""
    owners = [module for module in model.modules() if isinstance(module, SelfAttention | GatedFeedForward)]
    return [
        (owner, name, layer)
        for owner in owners
        for name, layer in owner.named_children()
        if isinstance(layer, nn.Linear)
    ]
