"""What layers and loss move through memory between matrix products: counted constants, and a step's bytes from them."""

from model.network.config import ModelConfig
from model.network.noise import count_rendered
from model.network.recompute import Recompute
from model.training.size import count_outputs, count_positions

# Vectors of the width that a layer of the LM and of the DiT moves per position between products, forward and backward,
# with feed-forwards of four times the width: counted, not compiled and compiled.
MOVED_VECTORS: dict[bool, dict[Recompute, tuple[float, float]]] = {
    False: {False: (322.3, 171.2), "cheap": (382.4, 195.2), "selective": (362.3, 209.2), True: (421.4, 241.2)},
    True: {False: (68.1, 71.2), "cheap": (74.0, 77.2), "selective": (75.0, 78.2), True: (95.1, 98.2)},
}
# Of them, for each width that the feed-forward has: silu(gate) * up forward, its gradients, and once more.
SWIGLU_VECTORS: dict[bool, dict[Recompute, float]] = {
    False: {False: 16.0, "cheap": 21.0, "selective": 21.0, True: 21.0},
    True: {False: 8.0, "cheap": 9.0, "selective": 9.0, True: 11.0},
}
MOVED_PER_LOGIT = {False: 36.0, True: 6.0}  # bytes of bf16 logits, products apart


def moved_bytes(
    config: ModelConfig, num_frames: int, recompute: Recompute, number_bytes: int = 2, *, is_compiled: bool = True
) -> float:
    """Return what norms, rotation, SwiGLU, sums and the loss of one song move in a step, forward and backward.

    Every kernel reads its inputs once and writes its outputs once; matrix products and attention are not in it. The
    song has the longest lyrics and prompt. `python -m model.bench bytes` counts the constants.

    Args:
        config: the model's shape.
        num_frames: of the song.
        recompute: what the backward pass computes again.
        number_bytes: of an activation; 2 for bf16.
        is_compiled: layers are compiled, so that operations between products are one kernel.
    """
    lm, dit = MOVED_VECTORS[is_compiled][recompute]
    swiglu = SWIGLU_VECTORS[is_compiled][recompute] * (config.ffn_scale - 4)
    conditions = config.conditions
    lm_positions, dit_positions = count_positions(
        config, num_frames, conditions.max_lyric_tokens, conditions.prompt_frames
    )
    num_rendered = count_rendered(num_frames // config.block_frames, config.dropout.blocks)
    vectors = config.lm_layers * lm_positions * (lm + swiglu)
    vectors += config.dit_layers * dit_positions * num_rendered * (dit + swiglu)
    logits = (num_frames + 1) * count_outputs(config)
    return number_bytes * (config.dim * vectors + logits * MOVED_PER_LOGIT[is_compiled] / 2)
