"""Lyrics and a 10 s style prompt -> a song as FLAC, with a trained model. Several songs are written in one batch.

Lyrics may be in SongBloom's format ("[verse] One line. Another line , [chorus] ..."), or plain text or LRC with section
headers, which is converted. The prompt is any audio: 10 s from --prompt-start are used, mixed down to mono.
"""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray

from jobs.cluster import resolve_path
from jobs.command import EXIT_FINE, CommandParser, add_model_flags, read_profile, run_command
from model.checkpoint import CheckpointError, load_model
from model.sampling import PRESETS, generate
from pipeline.audio import AudioDecodeError, decode_audio, resample, to_stereo
from pipeline.encode_song import load_codec
from pipeline.inputs import InputError
from pipeline.lyrics import parse_lyrics
from pipeline.lyrics_encoding import read_lyrics
from pipeline.phonemes import Phonemizer
from pipeline.profiles import check_models
from pipeline.songbloom_format import validate
from pipeline.untimed_lyrics import format_untimed
from pipeline.vae_latents import VaeCodec
from shards.schema import FRAME_RATE_HZ, LATENT_SAMPLE_RATE_HZ, PROMPT_FRAMES, count_frames

logger = logging.getLogger(__name__)

PEAK = 0.99  # louder songs are scaled down to it, never clipped


@dataclass(frozen=True, slots=True)
class Order:
    """One song to write."""

    lyrics: str  # in SongBloom's format
    prompt: Path
    prompt_start_s: float
    seed: int
    out: Path


def read_orders(arguments: argparse.Namespace) -> list[Order]:
    """Return the songs that the command line or the --batch file asks for."""
    if not arguments.batch:
        if not arguments.lyrics or not arguments.prompt:
            raise InputError("--lyrics and --prompt are needed, or --batch with a file that names them")
        return [
            Order(
                to_songbloom_format(resolve_path(arguments.lyrics)),
                resolve_path(arguments.prompt),
                arguments.prompt_start,
                arguments.seed,
                resolve_path(arguments.out),
            )
        ]
    path = resolve_path(arguments.batch)
    orders = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"--batch {path}: cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            lyrics, prompt, out = (path.parent / entry[name] for name in ("lyrics", "prompt", "out"))
            start_s, seed = float(entry.get("prompt_start", 0.0)), int(entry.get("seed", arguments.seed + number - 1))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f'{path}: line {number}: {error}; expected {{"lyrics": file, "prompt": file, "out": file, "seed": 0}}'
            ) from error
        orders.append(Order(to_songbloom_format(lyrics), prompt, start_s, seed, out))
    if not orders:
        raise InputError(f"{path}: no songs in it")
    return orders


def check_orders(orders: Sequence[Order]) -> None:
    """Refuse before any work what could not be written after it."""
    for order in orders:
        if not soundfile.check_format(order.out.suffix[1:].upper() or "-", "PCM_16"):
            raise InputError(f"--out {order.out}: no such audio format; take .flac or .wav")
        if order.out.is_dir() or order.seed < 0:
            raise InputError(
                f"--out {order.out}: a folder" if order.out.is_dir() else f"seed {order.seed}: expected 0 or more"
            )


def to_songbloom_format(path: Path) -> str:
    """Read a lyrics file and return it in SongBloom's format; text that is in it already stays as it is."""
    text = read_lyrics(path).strip()
    if not validate(text):
        return text
    parsed = parse_lyrics(text)
    if not parsed.lines:
        raise InputError(
            f"{path}: no line to sing; as SongBloom's format it has these faults: {'; '.join(validate(text))}"
        )
    return format_untimed(parsed)


def main() -> tuple[dict[str, Any], int]:
    """Run the command."""
    arguments = parse_arguments()
    profile = read_profile(arguments)
    check_models(profile, ("vae",))
    orders = read_orders(arguments)
    check_orders(orders)
    if not 0 < arguments.seconds < 3_600:
        raise InputError(f"--seconds {arguments.seconds}: expected more than 0 and less than an hour")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        model, _ = load_model(resolve_path(arguments.checkpoint), device)
    except CheckpointError as error:
        raise InputError(f"--checkpoint: {error}") from error
    codec = load_codec(profile, device)
    phonemizer = Phonemizer("plain")
    logger.info("%d songs to write on %s; reading lyrics and prompts", len(orders), device)
    lyric_ids = []
    for order in orders:
        phonemes = phonemizer.lyric_ids(order.lyrics)
        if phonemes.unknown:
            logger.warning(
                "%s: symbols without a sound in the vocabulary: %s", order.out.name, " ".join(phonemes.unknown)
            )
        lyric_ids.append(phonemes.ids)
    prompts = []
    for order in orders:
        try:
            audio = decode_audio(order.prompt)
        except AudioDecodeError as error:
            raise InputError(f"prompt {order.prompt}: {error}") from error
        if not 0 <= order.prompt_start_s < audio.duration_s - 1 / FRAME_RATE_HZ:
            raise InputError(
                f"{order.prompt}: --prompt-start {order.prompt_start_s} s, the file has {audio.duration_s:.1f} s"
            )
        samples = to_stereo(resample(audio.samples, audio.sample_rate, LATENT_SAMPLE_RATE_HZ))
        start_frame = int(order.prompt_start_s * FRAME_RATE_HZ)
        length = min(count_frames(samples.shape[1], LATENT_SAMPLE_RATE_HZ) - start_frame, PROMPT_FRAMES)
        prompts.append(torch.from_numpy(codec.encode_prompts(samples, [start_frame])[0, :length]))
    sampling = replace(PRESETS[arguments.preset], max_frames=round(arguments.seconds * FRAME_RATE_HZ))
    if arguments.steps:
        sampling = replace(sampling, euler_steps=arguments.steps)
    songs = generate(model, lyric_ids, prompts, [order.seed for order in orders], sampling, progress=_show_progress)
    written = []
    for order, song in zip(orders, songs, strict=True):
        written.append(_write(order, song.latents.numpy(), song.ended, codec))
    return {"checkpoint": str(arguments.checkpoint), "songs": written}, EXIT_FINE


def _write(order: Order, latents: NDArray[np.float32], ended: str, codec: VaeCodec) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "out": str(order.out),
        "seed": order.seed,
        "ended": ended,
        "seconds": len(latents) / FRAME_RATE_HZ,
    }
    if not len(latents):
        logger.warning("%s: the model ended the song at once; nothing is written", order.out)
        return facts | {"out": None}
    audio = codec.decode(latents)
    peak = float(np.abs(audio).max())
    order.out.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(order.out, audio.T * min(1.0, PEAK / max(peak, 1e-9)), LATENT_SAMPLE_RATE_HZ, subtype="PCM_16")
    logger.info("%s: %.1f s, ended by %s", order.out, facts["seconds"], ended)
    return facts | {"peak": round(peak, 4)}


def _show_progress(done: int, most: int) -> None:
    if done == most or done % 10 == 0 or sys.stderr.isatty():
        logger.info("%d of at most %d blocks", done, most)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = CommandParser(prog="generate.py", description=__doc__)
    parser.add_argument(
        "--checkpoint", type=Path, required=True, help="folder of a run or a checkpoint, or a .safetensors file"
    )
    parser.add_argument("--lyrics", type=Path, help="lyrics file")
    parser.add_argument("--prompt", type=Path, help="audio whose style the song takes")
    parser.add_argument("--prompt-start", type=float, default=0.0, help="where its 10 s start, in seconds (default: 0)")
    parser.add_argument("--out", type=Path, default=Path("song.flac"), help="audio file to write (default: song.flac)")
    parser.add_argument(
        "--batch", type=Path, help='JSON lines of {"lyrics", "prompt", "out", "seed"}: many songs at once, '
        "paths relative to this file",
    )  # fmt: skip
    parser.add_argument("--seconds", type=float, default=150.0, help="longest song (default: 150)")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same song (default: 0)")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="paper", help="sampling settings (default: paper)")
    parser.add_argument("--steps", type=int, help="Euler steps of the diffusion (default: the preset's, 36)")
    add_model_flags(parser, ("vae",))
    return parser.parse_args()


if __name__ == "__main__":
    run_command(main)
