"""Write songs with a trained model: lyrics and a 10 s style prompt -> audio.

  python jobs/generate.py --checkpoint runs/full --lyrics song.txt --prompt style.mp3 --out song.flac

Lyrics may be in SongBloom's format ("[verse] One line. Another line , [chorus] ..."), or plain text or LRC with section
headers, which is converted. The prompt is any audio: 10 s from --prompt-start are used, mixed down to mono.
With --continue, a song goes on from the end, or from --continue-at, of a recording; its lyrics are those of the whole
song. With --stream, the file grows while the song is being written. With --batch, many songs are written at once, which
takes little longer than one on a GPU. Files that are there already are replaced.

The model ends a song by itself, at --seconds at the latest. Exit code: 0 all songs are written; 1 some are not, as the
model ended them in their first block; 2 wrong use.
"""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jobs.cluster import resolve_path
from jobs.command import EXIT_FINE, EXIT_SHORT, CommandParser, add_model_flags, read_profile, run_command
from jobs.song_orders import Order, check_orders, read_orders
from jobs.song_output import SongStream, write_song
from model.network.song_model import SongModel
from model.network.varlen import describe_attention
from model.sampling.sampling import PRESETS, GeneratedSong, Opening, SamplingConfig, generate
from model.sampling.step_runner import StepRunner, choose_runner, describe_steps
from model.training.hardware import DTYPES, choose_device, choose_dtype, describe_device
from model.weights.base_weights import load_model
from model.weights.checkpoint import CheckpointError
from pipeline.audio.decode import AudioDecodeError, DecodedAudio, decode_audio, resample, to_stereo
from pipeline.encoding.encode_song import fit, frames_of, load_codec, load_tokenizer, semantic_audio
from pipeline.encoding.semantic_tokens import SemanticTokenizer
from pipeline.encoding.vae_latents import VaeCodec
from pipeline.input_file import InputError
from pipeline.model_files.profiles import Profile, locate_models
from pipeline.phonemes.phonemizer import Mode, Phonemizer
from shards.schema import FRAME_RATE_HZ, LATENT_HOP_LENGTH, LATENT_SAMPLE_RATE_HZ, PROMPT_FRAMES, count_frames

PRECISIONS = {dtype: name for name, dtype in DTYPES.items()}

logger = logging.getLogger(__name__)


def main() -> tuple[dict[str, Any], int]:
    """Run the command."""
    arguments = parse_arguments()
    profile = read_profile(arguments)
    orders = read_orders(arguments)
    check_orders(orders, streams=arguments.stream)
    if not 0 < arguments.seconds < 3_600:
        raise InputError(f"--seconds {arguments.seconds}: expected more than 0 and less than an hour")
    if not 0 <= arguments.min_seconds <= arguments.seconds:
        raise InputError(f"--min-seconds {arguments.min_seconds}: expected 0 to --seconds {arguments.seconds}")
    sampling = replace(
        PRESETS[arguments.preset],
        min_frames=round(arguments.min_seconds * FRAME_RATE_HZ),
        max_frames=round(arguments.seconds * FRAME_RATE_HZ),
    )
    if arguments.steps is not None:
        if arguments.steps < 1:
            raise InputError(f"--steps {arguments.steps}: expected 1 or more")
        sampling = replace(sampling, euler_steps=arguments.steps)
    device = choose_device(arguments.device)
    dtype = choose_dtype(arguments.dtype, device)
    continues = any(order.continued for order in orders)
    profile = locate_models(profile, ("vae", "muq", "codebook") if continues else ("vae",))
    try:
        model, _ = load_model(resolve_path(arguments.checkpoint), device, dtype)
    except CheckpointError as error:
        raise InputError(f"--checkpoint: {error}") from error
    codec = load_codec(profile, device)
    precision = PRECISIONS[dtype]
    logger.info("%d songs to write on %s in %s", len(orders), describe_device(device), precision)
    logger.info("%s", describe_attention(device, dtype))
    logger.info("%s; reading lyrics and prompts", describe_steps(device, with_graphs=arguments.graphs))
    lyric_ids = read_lyric_ids(orders, model.config.conditions.phonemes)
    _check_lengths(orders, lyric_ids, model.config.conditions.max_lyric_tokens)
    prompts = [read_prompt(order, codec) for order in orders]
    openings = read_openings(orders, codec, profile, device, model.config.block_frames)
    streams = _open_streams(orders, openings, codec) if arguments.stream else []
    runner = choose_runner(model.bos_D.device, with_graphs=arguments.graphs)
    songs = write_songs(model, orders, (lyric_ids, prompts, openings), sampling, streams, runner)
    written = []
    for number, (order, song, opening) in enumerate(zip(orders, songs, openings, strict=True)):
        num_new = len(song.latents) - (len(opening.latents) if opening is not None else 0)
        written.append(_finish(order, song, num_new, codec, streams[number] if streams else None))
    totals = {"checkpoint": str(arguments.checkpoint), "device": device, "dtype": precision, "songs": written}
    return totals, EXIT_FINE if all(song["out"] for song in written) else EXIT_SHORT


def write_songs(
    model: SongModel,
    orders: Sequence[Order],
    conditions: tuple[list[list[int]], list[Tensor], list[Opening | None]],
    sampling: SamplingConfig,
    streams: Sequence[SongStream],
    runner: StepRunner,
) -> list[GeneratedSong]:
    """Let the model write all songs at once; with streams, hand each block on as soon as it is there."""
    lyric_ids, prompts, openings = conditions

    def hand_on(song: int, latents: Tensor) -> None:
        streams[song].add(latents.numpy())

    receive: Callable[[int, Tensor], None] | None = hand_on if streams else None
    seeds = [order.seed for order in orders]
    return generate(
        model,
        lyric_ids,
        prompts,
        seeds,
        sampling,
        progress=_show_progress,
        openings=openings,
        on_block=receive,
        runner=runner,
    )


def read_lyric_ids(orders: Sequence[Order], phonemes: Mode) -> list[list[int]]:
    """Return the symbols of each song's lyrics, spelled in the mode that the model was trained with."""
    phonemizer = Phonemizer(phonemes)
    lyric_ids = []
    for order in orders:
        spelled = phonemizer.lyric_ids(order.lyrics)
        if spelled.unknown:
            logger.warning(
                "%s: symbols without a sound in the vocabulary: %s", order.out.name, " ".join(spelled.unknown)
            )
        if not spelled.ids:
            raise InputError(
                f"{order.out}: its lyrics hold 0 symbols of the vocabulary, expected at least a section tag"
            )
        lyric_ids.append(list(spelled.ids))
    return lyric_ids


def read_prompt(order: Order, codec: VaeCodec) -> Tensor:
    """Return the latents [n, C] of a song's style prompt."""
    audio = _decode(order.prompt, "prompt")
    if not 0 <= order.prompt_start_s < audio.duration_s - 1 / FRAME_RATE_HZ:
        raise InputError(
            f"{order.prompt}: --prompt-start {order.prompt_start_s} s, the file has {audio.duration_s:.1f} s"
        )
    samples = to_stereo(resample(audio.samples, audio.sample_rate, LATENT_SAMPLE_RATE_HZ))
    start_frame = int(order.prompt_start_s * FRAME_RATE_HZ)
    length = min(count_frames(samples.shape[1], LATENT_SAMPLE_RATE_HZ) - start_frame, PROMPT_FRAMES)
    return torch.from_numpy(codec.encode_prompts(samples, [start_frame])[0, :length])


def read_openings(
    orders: Sequence[Order], codec: VaeCodec, profile: Profile, device: str, block_frames: int
) -> list[Opening | None]:
    """Return tokens and latents of the recordings that songs go on from."""
    if not any(order.continued for order in orders):
        return [None] * len(orders)
    tokenizer = load_tokenizer(profile, device)
    return [_read_opening(order, codec, tokenizer, block_frames) if order.continued else None for order in orders]


def _read_opening(order: Order, codec: VaeCodec, tokenizer: SemanticTokenizer, block_frames: int) -> Opening:
    assert order.continued is not None
    decoded = _decode(order.continued, "recording to continue")
    num_frames = frames_of(decoded)
    num_kept = num_frames
    if order.continue_at_s is not None:
        num_kept = int(order.continue_at_s * FRAME_RATE_HZ)
    num_kept -= num_kept % block_frames
    if not 0 < num_kept <= num_frames:
        raise InputError(
            f"{order.continued}: --continue-at {order.continue_at_s} s, the recording has {decoded.duration_s:.1f} s; "
            f"expected at least a block of {block_frames / FRAME_RATE_HZ} s"
        )
    samples = to_stereo(resample(decoded.samples, decoded.sample_rate, LATENT_SAMPLE_RATE_HZ))
    mean, _ = codec.encode(fit(samples, num_frames * LATENT_HOP_LENGTH))
    tokens = tokenizer.tokens(semantic_audio(decoded, num_frames), num_frames)
    return Opening(torch.from_numpy(tokens[:num_kept].astype("int64")), torch.from_numpy(mean[:num_kept]))


def _decode(path: Path, what: str) -> DecodedAudio:
    try:
        return decode_audio(path)
    except AudioDecodeError as error:
        raise InputError(f"{what} {path}: {error}") from error


def _open_streams(orders: Sequence[Order], openings: Sequence[Opening | None], codec: VaeCodec) -> list[SongStream]:
    empty = torch.zeros(0, codec.latent_channels)
    latents = [empty if opening is None else opening.latents for opening in openings]
    return [SongStream(order.out, codec, opening.numpy()) for order, opening in zip(orders, latents, strict=True)]


def _finish(
    order: Order, song: GeneratedSong, num_new: int, codec: VaeCodec, stream: SongStream | None
) -> dict[str, Any]:
    """Write what is not written yet and return what the song became; without a new frame it becomes nothing."""
    seconds = len(song.latents) / FRAME_RATE_HZ
    facts: dict[str, Any] = {"out": str(order.out), "seed": order.seed, "ended": song.ended, "seconds": seconds}
    if stream is not None:
        stream.close()
    if not num_new:
        logger.warning(
            "%s: the model ended the song before a block of its own, so nothing is written; --min-seconds 30 keeps it "
            "from that, and another --seed may do (a model that ends most songs so has not learnt enough yet)",
            order.out,
        )  # fmt: skip
        if stream is not None:
            order.out.unlink()
        return facts | {"out": None}
    peak = stream.peak if stream is not None else write_song(order.out, song.latents.numpy(), codec)
    logger.info("%s: %.1f s, ended by %s", order.out, seconds, song.ended)
    return facts | {"peak": round(peak, 4)}


def _check_lengths(orders: Sequence[Order], lyric_ids: Sequence[Sequence[int]], most: int) -> None:
    """Refuse lyrics that are too long for the model, by the name of their song."""
    for order, ids in zip(orders, lyric_ids, strict=True):
        if len(ids) > most:
            raise InputError(f"{order.out}: its lyrics are {len(ids)} symbols, this model takes {most}; shorten them")


def _show_progress(done: int, most: int) -> None:
    if done == most or done % 10 == 0 or sys.stderr.isatty():
        logger.info("%d of at most %d blocks", done, most)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = CommandParser(prog="generate.py", description=__doc__)
    parser.add_argument(
        "--checkpoint", type=Path, required=True, help="folder of a run or a checkpoint, or a .safetensors file"
    )
    parser.add_argument("--lyrics", type=Path, metavar="FILE", help="lyrics file")
    parser.add_argument("--prompt", type=Path, metavar="AUDIO", help="audio whose style the song takes")
    parser.add_argument(
        "--prompt-start", type=float, default=0.0, metavar="S", help="where its 10 s start, in seconds (default: 0)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("song.flac"), metavar="AUDIO", help="file to write (default: song.flac)"
    )
    parser.add_argument(
        "--batch", type=Path, metavar="FILE", help='JSON lines of {"lyrics", "prompt", "out", "seed"}: many songs at '
        "once, paths relative to this file; also prompt_start, continue and continue_at",
    )  # fmt: skip
    parser.add_argument("--continue", type=Path, metavar="AUDIO", help="recording to go on from")
    parser.add_argument("--continue-at", type=float, metavar="S", help="take only its first S seconds")
    parser.add_argument("--stream", action="store_true", help="write the .wav file while the song is being written")
    parser.add_argument(
        "--seconds", type=float, default=150.0, metavar="S",
        help="longest song, beyond what is continued (default: 150)",
    )  # fmt: skip
    parser.add_argument(
        "--min-seconds", type=float, default=0.0, metavar="S",
        help="shortest song: the model may not end it before (default: 0)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="same seed, same song (default: 0)")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="paper", help="sampling settings (default: paper)")
    parser.add_argument("--steps", type=int, help="Euler steps of the diffusion (default: the preset's, 36)")
    parser.add_argument(
        "--device",
        choices=("auto", "cuda", "cpu"),
        default="auto",
        help="auto (default): a GPU where there is one; one that is here and cannot be used ends the command",
    )
    parser.add_argument(
        "--dtype",
        choices=sorted(DTYPES),
        help="of the song model's weights and matrix products; softmax, guidance, diffusion steps and the VAE stay in "
        "fp32 (default: bf16, half the memory, on a GPU that computes in it; else fp32)",
    )
    parser.add_argument(
        "--no-graphs", action="store_false", dest="graphs",
        help="on a GPU, launch kernels one by one, not as CUDA graphs: slower, for comparison",
    )  # fmt: skip
    add_model_flags(parser, ("vae", "muq", "codebook"))
    return parser.parse_args()


if __name__ == "__main__":
    run_command(main)
