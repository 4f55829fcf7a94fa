"""How to sample songs: the settings, and the two published sets of them."""

from dataclasses import dataclass
from typing import Literal

from model.network.config import require

Penalty = Literal["by_sign", "divide"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingConfig:
    """How to sample; defaults are the paper's (arXiv:2506.07634, 5.2)."""

    max_frames: int = 3750
    """Most that is written of a song, an opening not counted; rounded up to whole blocks. 3750 frames are 150 s."""
    cfg_scale: float = 1.5
    """Guidance of the LM: null + scale * (conditional - null) on logits (arXiv:2207.12598)."""
    dit_cfg_scale: float | None = None
    """Guidance of the DiT; None: as the LM."""
    guidance: Literal["hidden", "global"] = "hidden"
    """The DiT's unconditional branch. hidden: zeros for hidden vector and tokens, mixed at every step. global: the
    unconditional LM's hidden vector and the same tokens, on a path of its own; the two finished latents are mixed."""
    temperature: float = 0.9
    """Of the tokens; 0 takes the most likely one."""
    top_k: int = 200
    """Keep this many likely ids; 0 keeps all."""
    top_p: float = 0.0
    """Keep ids within this probability mass instead of `top_k`; 0 is off."""
    repetition_penalty: float = 1.0
    """Penalty on codes among the last `penalty_window` tokens, from the second block on; 1 is off."""
    penalty_window: int = 50
    penalty_kind: Penalty = "by_sign"
    """See `token_choice.penalise_repeats`; the reference divides."""
    euler_steps: int = 36
    diffusion_temperature: float = 1.0
    """See `flow.integrate`; below 1 the latents vary less."""
    diffusion_jump: Literal["exact", "reference"] = "exact"
    """See `flow.integrate`."""
    min_frames: int = 0
    """New frames, in whole blocks, before EOS may be chosen; 0 lets a song end at once."""
    stop_at_eos: bool = True
    """False writes `max_frames` whatever the LM says (for measurements)."""

    def __post_init__(self) -> None:
        """Refuse values without meaning."""
        for name, low in (
            ("max_frames", 1),
            ("min_frames", 0),
            ("euler_steps", 1),
            ("penalty_window", 1),
            ("top_k", 0),
        ):
            value = getattr(self, name)
            require(value >= low, f"sampling.{name} is {value}, expected at least {low}")
        require(
            self.min_frames <= self.max_frames,
            f"sampling.min_frames is {self.min_frames}, expected at most max_frames = {self.max_frames}",
        )
        require(self.temperature >= 0, f"sampling.temperature is {self.temperature}, expected 0 or more")
        require(0 <= self.top_p <= 1, f"sampling.top_p is {self.top_p}, expected 0 to 1")
        require(self.repetition_penalty > 0, f"sampling.repetition_penalty is {self.repetition_penalty}, expected > 0")
        require(
            0 <= self.diffusion_temperature <= 1,
            f"sampling.diffusion_temperature is {self.diffusion_temperature}, expected 0 to 1",
        )


PRESETS = {
    "paper": SamplingConfig(),
    # Of the released 150 s configuration, with the public sampler's own penalty and jump.
    "release": SamplingConfig(
        top_k=100,
        repetition_penalty=1.1,
        penalty_kind="divide",
        diffusion_temperature=0.95,
        diffusion_jump="reference",
    ),
}
