"""Compare this model with numbers of the reference: `python -m model.parity FIXTURE [--device cuda]`.

FIXTURE is a folder as `model/fixture.py` describes. Prints one line per case and quantity, and as its last line one
JSON object. Exit code 0: all within tolerance; 1: not; 2: the folder is not a fixture that this model can run.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from model.fixture import (
    Case,
    FixtureError,
    read_cases,
    read_model_config,
    sampling_config,
    training_batch,
    with_padding,
)
from model.network.conditioning import PADDING
from model.network.config import ConfigError, ModelConfig
from model.network.flow import velocity_error
from model.network.interleave import IGNORED, Packing, make_targets, mark_first, unweave_body
from model.network.noise import Draws
from model.network.song_batch import SongBatch, mark_blocks
from model.network.song_model import SongModel
from model.sampling.sampling import generate
from model.sampling.song_writer import SongWriter
from model.weights.reference_weights import WeightsError, load_reference, to_reference

FORWARD_TOLERANCE = 1e-5  # relative to the largest expected magnitude; float32 leaves about 1e-6 after some layers
GRADIENT_TOLERANCE = 1e-4
NOT_COMPARABLE = 1e30  # error of other shapes and of what is not finite; JSON has no infinity

Compare = Callable[[str, Tensor, Tensor], None]
ConditionInputs = tuple[Tensor, Tensor, Tensor, Tensor]  # lyric ids, their counts, prompts, their counts


class Report:
    """The largest error of each quantity, per case and over all cases."""

    def __init__(self) -> None:
        """Start empty."""
        self.by_case: dict[tuple[str, str], float] = {}
        self.failed: list[str] = []

    def compare(self, case: str, quantity: str, found: Tensor, expected: Tensor) -> None:
        """Record an error: relative for floats, the share that differs for integers and masks."""
        if expected.is_floating_point():
            error = relative_error(found, expected)
            tolerance = GRADIENT_TOLERANCE if quantity.startswith("grad") else FORWARD_TOLERANCE
        else:
            error, tolerance = share_different(found, expected), 0.0
        self.by_case[case, quantity] = max(error, self.by_case.get((case, quantity), 0.0))
        if error > tolerance and f"{case}/{quantity}" not in self.failed:
            self.failed.append(f"{case}/{quantity}")

    def lines(self, case: str) -> list[str]:
        """Return one line per quantity of a case."""
        return [
            f"{'FAIL' if f'{case}/{quantity}' in self.failed else 'ok':4} {case:12} {quantity:20} {error:.2e}"
            for (name, quantity), error in self.by_case.items()
            if name == case
        ]

    def largest(self) -> dict[str, float]:
        """Return the largest error of each quantity over all cases."""
        errors: dict[str, float] = {}
        for (_, quantity), error in self.by_case.items():
            errors[quantity] = max(error, errors.get(quantity, 0.0))
        return errors


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Return the largest absolute difference over the largest expected magnitude."""
    if found.shape != expected.shape:
        return NOT_COMPARABLE
    if not expected.numel():
        return 0.0
    difference = (found.detach().cpu().double() - expected.double()).abs().max()
    error = float(difference / expected.double().abs().max().clamp(min=torch.finfo(torch.float32).tiny))
    return error if error < NOT_COMPARABLE else NOT_COMPARABLE


def share_different(found: Tensor, expected: Tensor) -> float:
    """Return the share of entries that differ; 1 if shapes differ."""
    if found.shape != expected.shape:
        return 1.0
    return float((found.cpu() != expected).double().mean()) if expected.numel() else 0.0


def build_model(config: ModelConfig, folder: Path, device: str) -> SongModel:
    """Return the fixture's model with its weights, in float32."""
    model = SongModel(config)
    load_reference(model, folder / "weights.safetensors")
    return model.to(device)


def move_batch(case: Case, model: SongModel) -> tuple[SongBatch, Draws]:
    """Return the songs and random numbers of a training case, on the model's device."""
    batch, draws = training_batch(case)
    return batch.to(model.bos_D.device), draws.to(model.bos_D.device)


def check_training(model: SongModel, case: Case, compare: Compare) -> None:
    """Compare every step of a training forward pass, the losses and all gradients."""
    expected, config = case.expected, model.config
    batch, draws = move_batch(case, model)
    conditions = (batch.lyric_ids_BL, batch.num_lyrics_B, batch.prompts_BNC, batch.num_prompt_frames_B)
    check_conditions(model, conditions, case, compare)

    body_BXD = model.embed_body(batch.semantic_tokens_BT, batch.latents_BTC)
    blocks_BN = mark_blocks(batch, config)
    states = model.run_lm(model.encode_conditions(batch, draws), body_BXD, blocks_BN.sum(dim=1))
    if "lm_input" in expected:
        compare("lm_input", body_BXD, expected["lm_input"])
    if "lm_hidden_prefix" in expected:
        compare("lm_hidden_prefix", states.prefix_BXD, expected["lm_hidden_prefix"])
    is_scored = mark_first(batch.num_frames_B + 1, batch.semantic_tokens_BT.shape[1] + 1)
    predictors_BTD, hidden_BND = unweave_body(expected["lm_hidden"], config.block_frames)
    compare("lm_hidden", states.predictors_BTD[is_scored], predictors_BTD[is_scored])
    compare("lm_hidden", states.hidden_BND[blocks_BN], hidden_BND[blocks_BN])

    targets_BT = make_targets(batch.semantic_tokens_BT, batch.num_frames_B, config.eos_id)
    compare("ar_target", targets_BT.masked_fill(targets_BT == IGNORED, config.codebook_size + 1), expected["ar_target"])
    compare("ar_logit", model.semantic_head(states.predictors_BTD[is_scored]), expected["ar_logit"][is_scored])
    ce_BT, _ = model.score_targets(states.predictors_BTD, targets_BT, batch.num_frames_B)
    compare("ce_per_position", ce_BT, expected["ce_per_position"])

    blocks = Packing(blocks_BN, model.bos_D.device)
    inputs = model.gather_flow_inputs(batch, batch.latents_BTC, states.hidden_BND, blocks)
    compare("nar_h", inputs.hidden_FD, expected["nar_h"])
    compare("nar_history", inputs.previous_FPC, expected["nar_history"])
    compare("nar_target", draws.noise_NPC - inputs.clean_FPC, expected["nar_target"])
    velocity_FPC = model.estimate_velocity(inputs, draws)
    compare("nar_pred", velocity_FPC, expected["nar_pred"])
    error_F = velocity_error(velocity_FPC, inputs.clean_FPC, draws.noise_NPC)
    compare("mse_per_block", error_F, expected["mse_per_block"])
    check_losses(model, case, compare)


def check_losses(model: SongModel, case: Case, compare: Compare) -> None:
    """Compare the losses of the model's own forward pass, and what they send back."""
    output = model(*move_batch(case, model))
    compare("ce", output.ce_sum / output.num_targets, case.expected["ce"])
    compare("mse", output.flow_sum / output.num_blocks, case.expected["mse"])
    loss = output.loss(flow_weight=case.meta.get("flow_loss_weight", 0.1))
    compare("loss", loss, case.expected["loss"])
    model.zero_grad()
    loss.backward()
    gradients = {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for name, parameter in model.named_parameters()
    }
    found = to_reference(gradients, model.config)
    for key, expected in case.expected.items():
        if key.startswith("grad/"):
            compare("grad", found[key.removeprefix("grad/")], expected)
    for key, gradient in found.items():  # the reference writes null where no gradient arrived
        compare("grad_norm", gradient.norm(), torch.tensor(case.meta["grad_norms_all"][key] or 0.0))
    total = torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
    compare("grad_norm_total", total, torch.tensor(case.meta["total_grad_norm"]))


def check_own_prefix(model: SongModel, case: Case, compare: Compare) -> None:
    """Compare songs whose conditions are not padded; `model` has padding off."""
    batch, draws = move_batch(case, model)
    blocks_BN = mark_blocks(batch, model.config)
    body_BXD = model.embed_body(batch.semantic_tokens_BT, batch.latents_BTC)
    states = model.run_lm(model.encode_conditions(batch, draws), body_BXD, blocks_BN.sum(dim=1))
    blocks = Packing(blocks_BN, model.bos_D.device)
    inputs = model.gather_flow_inputs(batch, batch.latents_BTC, states.hidden_BND, blocks)
    velocity_BNPC = blocks.unpack(model.estimate_velocity(inputs, draws))
    for song, num_frames in enumerate(batch.num_frames_B.tolist()):
        logits = model.semantic_head(states.predictors_BTD[song, : num_frames + 1])
        compare("own_prefix_ar_logit", logits, case.expected[f"own_prefix/{song}/ar_logit"])
        velocity = velocity_BNPC[song][blocks_BN[song]]
        compare("own_prefix_nar_pred", velocity, case.expected[f"own_prefix/{song}/nar_pred"])


def check_generation(model: SongModel, case: Case, compare: Compare) -> None:
    """Compare a generated song, and every step of every block that the reference computed, also of discarded ones."""
    expected, noise = case.expected, case.inputs["noise"]
    lyric_ids, prompt = case.inputs["lyric_ids"], case.inputs["prompt_latent"]
    conditions = (  # of the song, and none
        torch.stack([lyric_ids, torch.full_like(lyric_ids, PADDING)]),
        torch.tensor([len(lyric_ids), 0]),
        torch.stack([prompt, torch.zeros_like(prompt)]),
        torch.tensor([len(prompt), 0]),
    )
    check_conditions(model, conditions, case, compare)

    limits, config = model.config.conditions, sampling_config(case)
    song_of = partial(
        generate,
        model,
        [lyric_ids[: limits.max_lyric_tokens].tolist()],
        [prompt[: limits.prompt_frames]],
        [0],
        noise=lambda _, block: noise[block],
    )
    (song,) = song_of(config=config)
    compare("tokens", song.semantic_tokens, expected["tokens"])
    if len(song.semantic_tokens):  # for an empty song the reference returns a block of zeros
        compare("latents", song.latents.T, expected["latents"])

    recorder = Recorder(has_null_rows=len(expected["dit_h"]) == 2 * len(noise), is_global=config.guidance == "global")
    every_block = replace(config, max_frames=len(noise) * model.config.block_frames, stop_at_eos=False)
    song_of(config=every_block, observe=recorder.observe)
    for quantity, parts in recorder.steps.items():
        compare(quantity, torch.cat(parts), expected[quantity])


class Recorder:
    """Collects what a writer of one song did in each block, under the fixture's names."""

    def __init__(self, *, has_null_rows: bool, is_global: bool) -> None:
        """Record hidden vectors with or without those of the unconditional branch, which are zeros unless global."""
        self.steps: dict[str, list[Tensor]] = defaultdict(list)
        self.has_null_rows, self.is_global = has_null_rows, is_global

    def observe(self, writer: SongWriter) -> None:
        """Record one block."""
        for quantity, logits in zip(("logit_cond", "logit_uncond", "logit_final"), writer.logits, strict=True):
            self.steps[quantity].append(logits[0])
        self.steps["all_block_tokens"].append(writer.tokens_AP)
        self.steps["all_block_latents"].append(writer.model.restore(writer.latents_APC))
        hidden, null_hidden = writer.state_RD.chunk(2)
        self.steps["dit_h"].append(hidden)
        if self.has_null_rows:
            self.steps["dit_h"].append(null_hidden if self.is_global else torch.zeros_like(null_hidden))


def check_conditions(model: SongModel, conditions: ConditionInputs, case: Case, compare: Compare) -> None:
    """Compare the embedded conditions and the masks of what is real in them."""
    lyric_ids_BL, num_lyrics_B, prompts_BNC, num_prompt_frames_B = conditions
    device = model.bos_D.device
    lyrics_BLD, _ = model.conditioner.encode_lyrics(lyric_ids_BL.to(device), num_lyrics_B)
    prompts_BND, _ = model.conditioner.encode_prompts(prompts_BNC.to(device), num_prompt_frames_B)
    found = {
        "cond_lyrics": lyrics_BLD,
        "cond_prompt": prompts_BND,
        "cond_lyrics_mask": mark_first(num_lyrics_B, lyrics_BLD.shape[1]),
        "cond_prompt_mask": mark_first(num_prompt_frames_B, prompts_BND.shape[1]),
    }
    for quantity, tensor in found.items():
        if quantity in case.expected:
            compare(quantity, tensor, case.expected[quantity].to(tensor.dtype))


def check_case(config: ModelConfig, folder: Path, device: str, case: Case, report: Report) -> None:
    """Run one case."""

    def compare(quantity: str, found: Tensor, expected: Tensor) -> None:
        report.compare(case.name, quantity, found, expected)

    padded = build_model(with_padding(config, case), folder, device)
    if not case.is_training:
        check_generation(padded, case, compare)
        return
    check_training(padded, case, compare)
    if any(key.startswith("own_prefix/") for key in case.expected):
        with torch.no_grad():
            check_own_prefix(build_model(config, folder, device), case, compare)


def run(folder: Path, device: str, write_line: Callable[[str], object]) -> dict[str, object]:
    """Run all cases of a fixture and return the summary.

    Raises:
        FixtureError, ConfigError, WeightsError: the folder cannot be run.
    """
    config = read_model_config(folder)
    cases = read_cases(folder)
    report = Report()
    for case in cases:
        try:
            check_case(config, folder, device, case, report)
        except (KeyError, IndexError, RuntimeError) as error:
            raise FixtureError(f"{folder / case.name} does not fit {folder / 'config.json'}: {error!r}") from error
        for line in report.lines(case.name):
            write_line(line)
    return {
        "fixture": folder.name,
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "torch": torch.__version__,
        "cases": [case.name for case in cases],
        "largest_relative_error": report.largest(),
        "tolerance": {"forward": FORWARD_TOLERANCE, "gradient": GRADIENT_TOLERANCE},
        "failed": report.failed,
        "ok": not report.failed,
    }


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m model.parity", description="compare with reference numbers")
    parser.add_argument("fixture", type=Path, help="folder with config.json, weights.safetensors and cases")
    parser.add_argument("--device", default="cpu", help="where to compute (default: cpu)")
    options = parser.parse_args(arguments)
    try:
        summary = run(options.fixture, options.device, lambda line: sys.stdout.write(line + "\n"))
    except (FixtureError, ConfigError, WeightsError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(json.dumps(summary) + "\n")
    return 0 if summary["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
