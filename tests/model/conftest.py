"""A song model small enough for a test, songs for it, and ranks that leave no trace."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model.network.config import ConditionsConfig, ModelConfig
from model.network.noise import Draws, draw
from model.network.song_batch import SongBatch
from model.network.song_model import SongModel
from model.training.ranks import Ranks
from model.training.trainer import join_ranks, leave_ranks

from .tiny_dataset import build_song, write_tiny_dataset

OF_RANKS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "DS_ACCELERATOR")
TAG, OTHER_TAG, COMMA, PERIOD = 1, 2, 3, 4  # ids of the tiny vocabulary; 5 to 11 are sounds


@pytest.fixture(scope="module")
def rank_environment() -> Iterator[None]:
    """Take back what joining ranks sets: it must not reach the commands of other tests."""
    with pytest.MonkeyPatch.context() as environment:
        for name in OF_RANKS:
            environment.setenv(name, "")
            environment.delenv(name)
        yield


@pytest.fixture(scope="module")
def ranks(rank_environment: None) -> Iterator[Ranks]:
    """Join as the only rank."""
    yield join_ranks()
    leave_ranks()


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven songs to train on, three held out."""
    train = [build_song(number, 4 + number % 3) for number in range(7)]
    val = [build_song(number, 5, split="val") for number in range(3)]
    return write_tiny_dataset(tmp_path_factory.mktemp("tiny"), train, val)


@pytest.fixture(scope="session")
def tiny_config() -> ModelConfig:
    """Two layers each, blocks of 4 frames, 20 codes, 3 latent channels; weights large enough to matter."""
    return ModelConfig(
        dim=64,
        num_heads=2,
        lm_layers=2,
        dit_layers=2,
        ffn_scale=2,
        block_frames=4,
        codebook_size=20,
        latent_channels=3,
        time_features=8,
        init_std=0.15,
        conditions=ConditionsConfig(
            vocabulary_size=12,
            tag_ids=(TAG, OTHER_TAG),
            comma_id=COMMA,
            period_id=PERIOD,
            max_sentences=4,
            max_lyric_tokens=10,
            prompt_frames=6,
        ),
    )


@pytest.fixture(scope="session")
def make_model(tiny_config: ModelConfig) -> Callable[..., SongModel]:
    """Build the tiny model, or one of a changed configuration, from a fixed seed."""

    def build(config: ModelConfig = tiny_config, **options: bool) -> SongModel:
        torch.manual_seed(0)
        return SongModel(config, **options)

    return build


@pytest.fixture(scope="session")
def make_batch(tiny_config: ModelConfig) -> Callable[..., SongBatch]:
    """Build random songs of given numbers of frames, lyric symbols and prompt frames."""

    def build(
        num_frames: Sequence[int] = (12, 4, 8),
        num_lyrics: Sequence[int] = (5, 9, 0),
        num_prompt: Sequence[int] = (6, 0, 3),
    ) -> SongBatch:
        generator = torch.Generator().manual_seed(1)
        shape = len(num_frames), max(num_frames)
        batch = SongBatch(
            keys=tuple(f"song-{number}" for number in range(len(num_frames))),
            semantic_tokens_BT=torch.randint(0, tiny_config.codebook_size, shape, generator=generator),
            latents_BTC=torch.randn(*shape, tiny_config.latent_channels, generator=generator),
            num_frames_B=torch.tensor(num_frames),
            lyric_ids_BL=torch.randint(1, 12, (shape[0], max(num_lyrics)), generator=generator),
            num_lyrics_B=torch.tensor(num_lyrics),
            prompts_BNC=torch.randn(shape[0], max(num_prompt), tiny_config.latent_channels, generator=generator),
            num_prompt_frames_B=torch.tensor(num_prompt),
        )
        for row in range(shape[0]):
            batch.semantic_tokens_BT[row, num_frames[row] :] = tiny_config.eos_id
            batch.latents_BTC[row, num_frames[row] :] = 0
            batch.lyric_ids_BL[row, num_lyrics[row] :] = -1
            batch.prompts_BNC[row, num_prompt[row] :] = 0
        return batch

    return build


@pytest.fixture(scope="session")
def pick_song() -> Callable[[SongBatch, int], SongBatch]:
    """Cut one song out of a batch, without the padding it had there."""

    def pick(batch: SongBatch, row: int) -> SongBatch:
        frames, lyrics = int(batch.num_frames_B[row]), int(batch.num_lyrics_B[row])
        rows = slice(row, row + 1)
        return SongBatch(
            keys=batch.keys[rows],
            semantic_tokens_BT=batch.semantic_tokens_BT[rows, :frames],
            latents_BTC=batch.latents_BTC[rows, :frames],
            num_frames_B=batch.num_frames_B[rows],
            lyric_ids_BL=batch.lyric_ids_BL[rows, :lyrics],
            num_lyrics_B=batch.num_lyrics_B[rows],
            prompts_BNC=batch.prompts_BNC[rows, : int(batch.num_prompt_frames_B[row])],
            num_prompt_frames_B=batch.num_prompt_frames_B[rows],
        )

    return pick


@pytest.fixture(scope="session")
def draw_for(tiny_config: ModelConfig) -> Callable[..., Draws]:
    """Draw times and noise for a batch whose songs have their row number, or given numbers, as seeds; no dropout."""

    def draw_batch(batch: SongBatch, seeds: Sequence[int] | None = None, **changes: torch.Tensor) -> Draws:
        num_blocks = (batch.num_frames_B // tiny_config.block_frames).tolist()
        draws = draw(seeds or range(len(num_blocks)), num_blocks, tiny_config, with_dropout=False)
        return replace(draws, **changes)

    return draw_batch
