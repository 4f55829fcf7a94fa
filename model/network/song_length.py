"""How long a song is in the LM's sequence."""

from model.network.config import ModelConfig


def count_tokens(model: ModelConfig, num_frames: int) -> int:
    """Return the positions of a song in the LM's sequence, with the longest prompt and the longest lyrics."""
    num_blocks = num_frames // model.block_frames
    longest_prefix = model.conditions.prompt_frames + model.conditions.max_lyric_tokens + 1  # and BOS
    return longest_prefix + num_blocks * (model.block_frames + 1)
