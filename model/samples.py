"""Songs that a run generates on its way: always of the same held-out lyrics and prompts, to be compared by ear.

samples/step_001000/<key>.safetensors   semantic_tokens int64 [T], latents float32 [T, C] as the VAE decodes them,
and the lyrics' ids; metadata: how the song ended
"""

import logging
from pathlib import Path

from safetensors.torch import save_file

from model.batches import MicroBatch
from model.sampling import SamplingConfig, generate
from model.settings import ReportConfig
from model.song_model import SongModel
from shards.schema import FRAME_RATE_HZ

logger = logging.getLogger(__name__)


def write_samples(folder: Path, step: int, model: SongModel, songs: MicroBatch, config: ReportConfig) -> Path:
    """Generate a song for each of the first of `songs` with its lyrics, prompt and seed; return their folder."""
    batch, count = songs.batch, min(config.num_samples, len(songs.batch.keys))
    lyrics = [batch.lyric_ids_BL[row, : int(batch.num_lyrics_B[row])] for row in range(count)]
    sampling = SamplingConfig(
        max_frames=round(config.max_sample_s * FRAME_RATE_HZ), euler_steps=config.sample_euler_steps
    )
    made = generate(
        model,
        [ids.tolist() for ids in lyrics],
        [batch.prompts_BNC[row, : int(batch.num_prompt_frames_B[row])] for row in range(count)],
        songs.seeds[:count],
        sampling,
    )
    target = folder / "samples" / f"step_{step:06d}"
    target.mkdir(parents=True, exist_ok=True)
    for key, ids, song in zip(batch.keys[:count], lyrics, made, strict=True):
        tensors = {"semantic_tokens": song.semantic_tokens, "latents": song.latents, "lyric_ids": ids.clone()}
        save_file(tensors, target / f"{key}.safetensors", {"ended": song.ended})
    logger.info("step %d  %d samples in %s", step, count, target)
    return target
