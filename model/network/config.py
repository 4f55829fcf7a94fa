"""Shape and rules of the joint LM + DiT song model: everything that decides what its weights mean.

Defaults are the released SongBloom model (36 + 12 layers, 1536 wide; its public configuration and arXiv:2506.07634),
except where the reference has a flaw that training from scratch need not inherit. Those places are switches, and
each names the value that released weights need.
"""

import math
from dataclasses import dataclass, field
from typing import Literal

from shards.schema import CODEBOOK_SIZE, LATENT_CHANNELS, PROMPT_FRAMES
from shards.vocabulary import COMMA_ID, PERIOD_ID, SYMBOLS, TAG_IDS

MIN_DIT_ROTARY_DIM = 32  # the reference rotates max(head_dim / 2, 32) channels of each DiT head


class ConfigError(ValueError):
    """A setting outside what the model can do, or settings that contradict each other."""


def require(condition: bool, message: str) -> None:
    """Raise ConfigError with `message` unless `condition` holds."""
    if not condition:
        raise ConfigError(message)


def require_at_least(low: int, **values: int) -> None:
    """Raise ConfigError naming the first of `values` that is below `low`; a double underscore in a name is a dot."""
    for name, value in values.items():
        require(value >= low, f"model.{name.replace('__', '.')} is {value}, expected at least {low}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ConditionsConfig:
    """Lyrics and style prompt: what stands before the song in the LM's sequence."""

    vocabulary_size: int = len(SYMBOLS)
    tag_ids: tuple[int, ...] = tuple(sorted(TAG_IDS.values()))
    """Ids of the structure tags such as [verse]; each starts a section."""
    comma_id: int = COMMA_ID
    period_id: int = PERIOD_ID
    """Id that ends a line; the next symbol belongs to the next sentence of the section."""
    max_sentences: int = 50
    """Rows of the sentence-index table; later sentences of a section share the last row."""
    max_lyric_tokens: int = 600
    """Budget of a song's lyrics; longer lyrics are refused, never cut."""
    prompt_frames: int = PROMPT_FRAMES
    """Longest style prompt, in latent frames."""
    padding: Literal["none", "fixed"] = "none"
    """fixed: zero vectors up to `prompt_frames` and `max_lyric_tokens`, which the LM attends to; released weights."""
    null_lyrics: Literal["empty", "padding_symbol"] = "empty"
    """What stands for absent lyrics. padding_symbol: one symbol of id 0, as released weights were trained."""
    phonemes: Literal["plain", "reference"] = "plain"
    """How lyric text becomes ids (pipeline/phonemes/phonemizer.py). reference: as released weights were trained."""

    def __post_init__(self) -> None:
        """Refuse sizes and ids that no table can hold."""
        require_at_least(
            1,
            conditions__vocabulary_size=self.vocabulary_size,
            conditions__max_lyric_tokens=self.max_lyric_tokens,
        )
        require_at_least(2, conditions__max_sentences=self.max_sentences)
        require_at_least(0, conditions__prompt_frames=self.prompt_frames)
        special_ids = (*self.tag_ids, self.comma_id, self.period_id)
        for symbol_id in special_ids:
            require(
                0 < symbol_id < self.vocabulary_size,
                f"model.conditions: id {symbol_id} of a tag, comma or period is outside 1..{self.vocabulary_size - 1}",
            )
        require(
            len(set(special_ids)) == len(special_ids),
            f"model.conditions: tags {self.tag_ids}, comma {self.comma_id} and period {self.period_id} share an id",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class DropoutConfig:
    """How often training hides a condition, so that guidance has an unconditional model (arXiv:2207.12598)."""

    conditions: float = 0.1
    """Chance per song to hide lyrics and prompt together."""
    prompt: float = 0.1
    """Chance per song to hide the prompt alone."""
    hidden: float = 0.05
    """Chance per block to hide the LM's hidden vector from the DiT; in mode joint the semantic tokens with it."""
    semantic: float = 0.05
    """Chance per block to hide the semantic tokens alone from the DiT."""
    blocks: float = 0.0
    """Share of each song's blocks that a step's DiT leaves out; the others count for them, so the flow loss stays
    unbiased. Saves that share of the DiT's compute."""
    mode: Literal["joint", "independent"] = "joint"
    """joint: as the paper says and as sampling needs. independent: as the public code; hides both only by luck."""

    def __post_init__(self) -> None:
        """Refuse what is no probability."""
        for name in ("conditions", "prompt", "hidden", "semantic", "blocks"):
            value = getattr(self, name)
            require(0.0 <= value < 1.0, f"model.dropout.{name} is {value}, expected a probability in [0, 1)")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """The joint model: an LM over semantic tokens and a DiT that renders each block of latents."""

    dim: int = 1536
    num_heads: int = 24
    lm_layers: int = 36
    dit_layers: int = 12
    ffn_scale: int = 4
    """Hidden width of every feed-forward network, in units of `dim`."""
    block_frames: int = 16
    """Frames per turn between LM and DiT: 16 at 25 Hz are 0.64 s (arXiv:2506.07634, 5.2)."""
    codebook_size: int = CODEBOOK_SIZE
    latent_channels: int = LATENT_CHANNELS
    lm_rope_base: float = 20_000.0
    dit_rope_base: float = 20_000.0
    time_features: int = 256
    """Fourier features of the diffusion time: a cosine and a sine of half as many learned frequencies."""
    time_conditioning: Literal["prepend", "adaln"] = "prepend"
    """How the DiT learns the time: as a first position (released), or by modulating every layer."""
    init_std: float = 0.02
    conditions: ConditionsConfig = field(default_factory=ConditionsConfig)
    dropout: DropoutConfig = field(default_factory=DropoutConfig)

    def __post_init__(self) -> None:
        """Refuse shapes that cannot be built."""
        require_at_least(
            1,
            dim=self.dim,
            num_heads=self.num_heads,
            lm_layers=self.lm_layers,
            dit_layers=self.dit_layers,
            ffn_scale=self.ffn_scale,
            block_frames=self.block_frames,
            codebook_size=self.codebook_size,
            latent_channels=self.latent_channels,
            time_features=self.time_features,
        )
        require(
            self.dim % self.num_heads == 0,
            f"model.dim {self.dim} is not a multiple of model.num_heads {self.num_heads}",
        )
        require(
            self.head_dim % 2 == 0 and self.dit_rotary_dim % 2 == 0 and self.dit_rotary_dim <= self.head_dim,
            f"model.dim {self.dim} over model.num_heads {self.num_heads} gives heads of {self.head_dim} channels; "
            f"rotary positions need an even number of at least {MIN_DIT_ROTARY_DIM}",
        )
        require(self.time_features % 2 == 0, f"model.time_features is {self.time_features}, expected an even number")
        for name in ("lm_rope_base", "dit_rope_base", "init_std"):
            value = getattr(self, name)
            require(math.isfinite(value) and value > 0, f"model.{name} is {value}, expected a positive number")

    @property
    def head_dim(self) -> int:
        """Channels of one attention head, the same in both stacks."""
        return self.dim // self.num_heads

    @property
    def dit_rotary_dim(self) -> int:
        """Channels of a DiT head that rotate with position; the LM rotates all of them."""
        return max(self.head_dim // 2, MIN_DIT_ROTARY_DIM)

    @property
    def eos_id(self) -> int:
        """Id of "the song ends here"; the highest that the LM can predict."""
        return self.codebook_size

    @property
    def table_rows(self) -> int:
        """Rows of the semantic embedding: codes, EOS, and one idle row that released checkpoints carry."""
        return self.codebook_size + 2
