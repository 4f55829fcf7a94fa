"""Songs that a run generates on its way: always of the same held-out lyrics and prompts, to be compared by ear.

samples/step_001000/<key>.safetensors   semantic_tokens int64 [T], latents float32 [T, C] as the VAE decodes them,
and the lyrics' ids; metadata: how the song ended. A step's folder appears whole. jobs/decode_samples.py adds audio.
"""

import logging
import shutil
from pathlib import Path

from safetensors.torch import save_file

from model.data.batches import MicroBatch
from model.network.song_model import SongModel
from model.sampling.sampling import SamplingConfig, generate
from model.settings.settings import ReportConfig
from shards.schema import FRAME_RATE_HZ

SAMPLES = "samples"  # in a run's folder

logger = logging.getLogger(__name__)


def write_samples(folder: Path, step: int, model: SongModel, songs: MicroBatch, config: ReportConfig) -> Path:
    """Generate a song for each of the first of `songs` with its lyrics, prompt and seed; return their folder.

    What a run that was killed after this step has left there is replaced, audio included.
    """
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
    target = folder / SAMPLES / f"step_{step:06d}"
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for key, ids, song in zip(batch.keys[:count], lyrics, made, strict=True):
        tensors = {"semantic_tokens": song.semantic_tokens, "latents": song.latents, "lyric_ids": ids.clone()}
        save_file(tensors, partial / f"{key}.safetensors", {"ended": song.ended})
    if target.exists():
        shutil.rmtree(target)
    partial.rename(target)
    logger.info("step %d  %d samples in %s", step, count, target)
    return target
