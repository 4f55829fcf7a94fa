"""Proof that the model learns: it overfits two songs, then writes them again: `python -m model.overfit DATASET`.

Trains on one batch until its tokens are certain, then lets the sampler write both songs from lyrics and prompt alone,
always taking the most likely token, and compares. The last line is one JSON object. Exit code 0: learned; 1: a figure
falls short; 2: wrong use.
"""

import argparse
import json
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from model.data.batches import Batches, derive_seed
from model.network.config import ConfigError
from model.network.noise import draw
from model.network.song_batch import BatchError, SongBatch, count_blocks
from model.network.song_model import SongModel
from model.sampling.sampling import SamplingConfig, generate
from model.settings.settings import RunConfig, load_config
from shards.index import read_index
from shards.reader import ShardReader
from shards.schema import ShardError

MAX_CE = 0.1  # nats per token
MAX_FLOW_RATIO = 1 / 3  # of the flow error of random weights
MIN_TOKENS_EQUAL = 0.95
NUM_EVALUATIONS = 8  # draws of times and noise that a flow error is the mean of
WARMUP_STEPS = 10

logger = logging.getLogger(__name__)


def load_songs(config: RunConfig) -> tuple[SongBatch, SongModel]:
    """Return the first batch of the dataset, and a model with random weights and the dataset's latent statistics."""
    root = Path(config.data.root)
    reader = ShardReader(root)
    batch = Batches(read_index(root), reader, config, "train").train_batch(0, 0, 1).micro_batches[0].batch
    torch.manual_seed(config.trainer.seed)
    model = SongModel(config.model)
    model.set_latent_statistics(torch.tensor(reader.info.latent_mean), torch.tensor(reader.info.latent_std))
    return batch, model


def learn(model: SongModel, batch: SongBatch, config: RunConfig) -> None:
    """Train on `batch` alone, with new times and noise at every step and no dropout."""
    num_blocks, schedule, device = count_blocks(batch, model.config).tolist(), config.schedule, model.bos_D.device
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.optimizer.lr, betas=config.optimizer.betas)
    for step in range(schedule.num_steps):
        for group in optimizer.param_groups:
            group["lr"] = config.optimizer.lr * schedule.factor(step)
        seeds = [derive_seed(step, row) for row in range(len(num_blocks))]
        output = model(batch, draw(seeds, num_blocks, model.config, device, with_dropout=False))
        optimizer.zero_grad()
        output.loss(flow_weight=config.trainer.flow_weight).backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.optimizer.clip_norm)
        optimizer.step()
        if (step + 1) % config.trainer.log_every == 0:
            ce, flow = float(output.ce_sum / output.num_targets), float(output.flow_sum / output.num_blocks)
            logger.info("step %d/%d  tokens %.4f  flow %.4f", step + 1, schedule.num_steps, ce, flow)


@torch.no_grad()
def evaluate(model: SongModel, batch: SongBatch) -> tuple[float, float]:
    """Return cross-entropy per token and flow error per block, over several draws that are always the same."""
    num_blocks = count_blocks(batch, model.config).tolist()
    outputs = [
        model(batch, draw([derive_seed("evaluate", number, row) for row in range(len(num_blocks))], num_blocks,
                          model.config, model.bos_D.device, with_dropout=False))
        for number in range(NUM_EVALUATIONS)
    ]  # fmt: skip
    ce = float(outputs[0].ce_sum / outputs[0].num_targets)
    return ce, sum(float(output.flow_sum / output.num_blocks) for output in outputs) / NUM_EVALUATIONS


def recite(model: SongModel, batch: SongBatch) -> tuple[float, list[str]]:
    """Write the songs again and return the share of tokens at their places, and how each song ended."""
    num_frames = batch.num_frames_B.tolist()
    songs = generate(
        model,
        [ids[:count].tolist() for ids, count in zip(batch.lyric_ids_BL, batch.num_lyrics_B.tolist(), strict=True)],
        [frames[:count] for frames, count in zip(batch.prompts_BNC, batch.num_prompt_frames_B.tolist(), strict=True)],
        range(len(num_frames)),
        SamplingConfig(max_frames=max(num_frames) + model.config.block_frames, cfg_scale=1.0, temperature=0.0),
    )
    num_equal = 0
    for song, tokens, count in zip(songs, batch.semantic_tokens_BT, num_frames, strict=True):
        written = song.semantic_tokens[:count]
        num_equal += int((written == tokens[: len(written)].cpu()).sum())
    return num_equal / sum(num_frames), [song.ended for song in songs]


def prepare(options: argparse.Namespace) -> RunConfig:
    """Return the configuration of the run."""
    config = load_config(options.config, [f"data.root={json.dumps(str(options.dataset))}"])
    return replace(
        config,
        data=replace(config.data, min_crop_s=options.seconds, max_crop_s=options.seconds, sample_latents=False),
        schedule=replace(config.schedule, num_steps=options.steps, warmup_steps=WARMUP_STEPS),
        trainer=replace(config.trainer, batch_size=options.songs, micro_batch_size=options.songs),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m model.overfit", description=__doc__)
    parser.add_argument("dataset", type=Path, help="folder that extract_tokens wrote")
    parser.add_argument("--config", default="miniature.yaml", help="(default: miniature.yaml)")
    parser.add_argument("--songs", type=int, default=2, help="(default: 2)")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each song (default: 4)")
    parser.add_argument("--steps", type=int, default=500, help="(default: 500)")
    parser.add_argument("--device", default="cpu", help="(default: cpu)")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    begun = time.monotonic()
    try:
        config = prepare(options)
        batch, model = load_songs(config)
        batch, model = batch.to(options.device), model.to(options.device)
    except (ConfigError, ShardError, BatchError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    _, flow_before = evaluate(model, batch)
    learn(model, batch, config)
    ce, flow = evaluate(model, batch)
    tokens_equal, ended = recite(model, batch)
    is_learned = ce < MAX_CE and flow < MAX_FLOW_RATIO * flow_before and tokens_equal >= MIN_TOKENS_EQUAL
    summary = {
        "songs": list(batch.keys),
        "frames": batch.num_frames_B.tolist(),
        "ce": ce,
        "flow_before": flow_before,
        "flow": flow,
        "flow_ratio": flow / flow_before,
        "tokens_equal": tokens_equal,
        "ended": ended,
        "required": {"ce": MAX_CE, "flow_ratio": MAX_FLOW_RATIO, "tokens_equal": MIN_TOKENS_EQUAL},
        "seconds": round(time.monotonic() - begun, 1),
        "ok": is_learned,
    }
    sys.stdout.write(json.dumps(summary) + "\n")
    return 0 if is_learned else 1


if __name__ == "__main__":
    sys.exit(main())
