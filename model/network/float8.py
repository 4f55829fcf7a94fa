"""Matrix products of the layers in 8-bit floating point, by torchao: `trainer.float8`.

The four large matrices of every layer are multiplied in float8, forward and backward, each tensor scaled to its range
anew in every step (e4m3 for inputs and weights, e5m2 for gradients: arXiv:2209.05433). Weights, and so checkpoints and
updates, stay as they are. Norms, attention, embeddings, the conditions and the head are computed as before.
"""

import torch
from torch import nn

from model.network.config import ConfigError
from model.network.song_model import SongModel

PRODUCTS = ("qkv", "out", "gate_up", "down")  # of attention and feed-forward
MIN_CAPABILITY = (8, 9)  # of the first GPUs with float8 units: Ada, then Hopper (9.0); an A100 (8.0) has none


def use_float8(model: SongModel, device: torch.device) -> None:
    """Let the layers of `model` multiply in float8; on a CPU that is emulated: slow, for tests.

    Raises:
        ConfigError: torchao is not installed, or the GPU has no float8 units.
    """
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < MIN_CAPABILITY:
        major, minor = torch.cuda.get_device_capability(device)
        raise ConfigError(
            f"trainer.float8 is true, but {torch.cuda.get_device_name(device)} has no float8 units: compute capability "
            f"{major}.{minor}, expected {MIN_CAPABILITY[0]}.{MIN_CAPABILITY[1]} or more; set it to false"
        )
    try:
        from torchao.float8 import Float8LinearConfig, convert_to_float8_training
    except ImportError as error:
        raise ConfigError(
            f"trainer.float8 is true, but torchao cannot be imported ({error}); install the one of the extra float8 in "
            "pyproject.toml, or set trainer.float8: false"
        ) from None
    # Packed songs have any number of positions, float8 units want multiples of 16.
    settings = Float8LinearConfig(emulate=device.type == "cpu", pad_inner_dim=True)
    for layers in (model.lm, model.dit):
        convert_to_float8_training(layers, config=settings, module_filter_fn=_is_product)


def _is_product(module: nn.Module, name: str) -> bool:
    return isinstance(module, nn.Linear) and name.rsplit(".", 1)[-1] in PRODUCTS
