"""Read a folder of reference numbers: one model, and cases of training and generation.

    FOLDER/config.json            shape and vocabulary
    FOLDER/weights.safetensors    under reference key names
    FOLDER/<case>/{inputs,expected}.safetensors, meta.json

The folders are described in full by the README that comes with them.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from model.network.config import ConditionsConfig, ModelConfig
from model.network.noise import Draws
from model.network.song_batch import SongBatch
from model.sampling.sampling import SamplingConfig

REFERENCE_PENALTY = 1.1  # of the public sampler, whenever its penalty is on
SUPPORTED = {"backend": "llama", "diffusion_objective": "rectified_flow", "norm": "layer_norm", "pre_norm": False}
TIME_CONDITIONING: dict[str, Literal["prepend", "adaln"]] = {
    "prepend": "prepend",
    "adaln": "adaln",
    "adalm": "adaln",  # the reference spells it both ways
}


class FixtureError(ValueError):
    """A folder that is no fixture, or one of a model that this project does not build."""


@dataclass(frozen=True, slots=True)
class Case:
    """One run of the reference."""

    name: str
    inputs: dict[str, Tensor]
    expected: dict[str, Tensor]
    meta: dict[str, Any]

    @property
    def is_training(self) -> bool:
        """A training step has diffusion times; a generation has the noise of each block instead."""
        return "nar_t" in self.inputs


def read_model_config(folder: Path) -> ModelConfig:
    """Return the model of a fixture; conditions still without padding."""
    content = read_json(folder / "config.json")
    try:
        shape, lyrics = content["model"], content["lyrics"]
        for key, value in SUPPORTED.items():
            if shape.get(key, value) != value:
                raise FixtureError(f"{folder / 'config.json'}: {key} is {shape[key]!r}, this project builds {value!r}")
        if lyrics["mode"] != "sum":
            raise FixtureError(f"{folder / 'config.json'}: lyrics mode is {lyrics['mode']!r}, expected 'sum'")
        return ModelConfig(
            dim=shape["dim"],
            num_heads=shape["num_heads"],
            lm_layers=shape["lm_layers"],
            dit_layers=shape["diff_layers"],
            ffn_scale=shape["hidden_scale"],
            block_frames=shape["block_size"],
            codebook_size=shape["num_pitch"],
            latent_channels=shape["latent_dim"],
            lm_rope_base=shape["rotary_base_val"],
            dit_rope_base=content["dit_rotary_base"],
            time_features=shape["timestep_features_dim"],
            time_conditioning=TIME_CONDITIONING[shape["time_cond_type"].lower()],
            conditions=ConditionsConfig(
                vocabulary_size=len(lyrics["vocab_list"]),
                tag_ids=tuple(lyrics["structure_token_ids"]),
                comma_id=lyrics["structure_split_token_ids"][0],
                period_id=lyrics["sentence_split_token_ids"][0],
                max_sentences=lyrics["max_sentence_per_structure"],
                null_lyrics="padding_symbol",
            ),
        )
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise FixtureError(f"{folder / 'config.json'}: {type(error).__name__} {error}, is it a fixture?") from error


def read_cases(folder: Path) -> list[Case]:
    """Return all cases of a fixture, in the order of their names."""
    cases = []
    for meta_path in sorted(folder.glob("*/meta.json")):
        inputs, expected = (read_tensors(meta_path.parent / f"{part}.safetensors") for part in ("inputs", "expected"))
        case = Case(meta_path.parent.name, inputs, expected, read_json(meta_path))
        if case.is_training == ("noise" in inputs):
            raise FixtureError(f"{meta_path.parent}: inputs hold {sorted(inputs)}, expected either nar_t or noise")
        cases.append(case)
    if not cases:
        raise FixtureError(f"{folder}: no cases, expected folders with meta.json")
    return cases


def with_padding(config: ModelConfig, case: Case) -> ModelConfig:
    """Return `config` with conditions padded as in the case."""
    conditions = replace(
        config.conditions,
        padding="fixed",
        max_lyric_tokens=case.meta["lyrics_padded_len"],
        prompt_frames=case.meta["prompt_padded_len"],
    )
    return replace(config, conditions=conditions)


def training_batch(case: Case) -> tuple[SongBatch, Draws]:
    """Return the songs and random numbers of a training case."""
    inputs = case.inputs
    num_songs, num_blocks = len(inputs["x_len"]), len(inputs["nar_t"])
    batch = SongBatch(
        keys=tuple(f"{case.name}-{number}" for number in range(num_songs)),
        semantic_tokens_BT=inputs["x_sketch"],
        latents_BTC=inputs["x_latent"].transpose(1, 2),
        num_frames_B=inputs["x_len"],
        lyric_ids_BL=inputs["lyric_ids"],
        num_lyrics_B=inputs["lyric_len"],
        prompts_BNC=inputs["prompt_latent"],
        num_prompt_frames_B=inputs["prompt_len"],
    )
    draws = Draws(
        time_N=inputs["nar_t"],
        noise_NPC=inputs["nar_noise"],
        drop_conditions_B=torch.zeros(num_songs, dtype=torch.bool),
        drop_prompt_B=torch.zeros(num_songs, dtype=torch.bool),
        drop_hidden_N=torch.zeros(num_blocks, dtype=torch.bool),
        drop_semantic_N=torch.zeros(num_blocks, dtype=torch.bool),
    )
    return batch, draws


def sampling_config(case: Case) -> SamplingConfig:
    """Return the sampler's settings of a generation case."""
    meta = case.meta
    if meta["use_sampling"]:
        raise FixtureError(f"case {case.name}: sampled with random numbers that are not recorded, expected greedy")
    scales = meta["cfg_coef"]
    lm_scale, dit_scale = scales if isinstance(scales, list) else (scales, None)
    return SamplingConfig(
        max_frames=meta["max_frames"],
        cfg_scale=lm_scale,
        dit_cfg_scale=dit_scale,
        guidance="global" if meta["dit_cfg_type"] == "global" else "hidden",
        temperature=0.0,
        repetition_penalty=REFERENCE_PENALTY if meta["penalty_repeat"] else 1.0,
        penalty_window=meta["penalty_window"] or 1,
        penalty_kind="divide",
        euler_steps=meta["steps"],
        diffusion_temperature=meta["diff_temp"],
        diffusion_jump="reference",
    )


def read_json(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FixtureError(f"{path} is missing, is {path.parent} a fixture?") from error
    except (OSError, ValueError) as error:
        raise FixtureError(f"{path}: {error}") from error
    if not isinstance(content, Mapping):
        raise FixtureError(f"{path}: holds a {type(content).__name__}, expected an object")
    return dict(content)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file."""
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise FixtureError(f"{path} is missing, is {path.parent} a case of a fixture?") from error
    except (OSError, SafetensorError) as error:
        raise FixtureError(f"{path}: {error}") from error
