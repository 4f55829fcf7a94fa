"""Decode the samples of a training run to audio: <run>/samples/step_<n>/<song>.flac, beside its tokens and latents.

They can then be heard in TensorBoard, and at Weights & Biases where the run uses it, at the steps they belong to. Start
it during the training with --watch, or after it; what is decoded and shown already is not done again. A run writes
samples every `report.samples_every` steps. --profile or --vae must name the VAE that the dataset was encoded with.
"""

import argparse
import io
import logging
import re
import signal
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from jobs.cluster import resolve_path
from jobs.command import EXIT_FINE, EXIT_SHORT, CommandParser, add_model_flags, read_profile, run_command
from jobs.output_folder import claim_folder
from jobs.song_output import write_song
from model.training.boards import SampleBoards, Sound
from model.training.hardware import choose_device, describe_device
from model.training.samples import SAMPLES
from model.weights.weights_file import CheckpointError, read_tensors
from pipeline.encoding.encode_song import load_codec
from pipeline.encoding.vae_latents import VaeCodec
from pipeline.input_file import InputError
from pipeline.model_files.profiles import locate_models
from shards.schema import FRAME_RATE_HZ

STEP_FOLDER = re.compile(r"step_(\d{6,12})")
LOCK = ".decode_samples.lock"  # in the folder of samples

logger = logging.getLogger(__name__)


def main() -> tuple[dict[str, Any], int]:
    """Run the command."""
    arguments = parse_arguments()
    if arguments.every <= 0:
        raise InputError(f"--every {arguments.every}: expected more than 0 seconds")
    run = resolve_path(arguments.run)
    if not run.is_dir():
        raise InputError(f"--run {run}: no such folder; expected that of a training run (checkpoint.folder)")
    samples = run / SAMPLES
    if not arguments.watch and not list_steps(samples):
        raise InputError(
            f"--run {run}: no samples in it; the run writes some with report.samples_every in its configuration, "
            "and --watch waits for them"
        )
    device = choose_device(arguments.device)
    codec = load_codec(locate_models(read_profile(arguments), ("vae",)), device)
    with claim_folder(samples, samples / LOCK, "decoding of samples", owned=()):
        decoder = SampleDecoder(codec)
        boards = SampleBoards(run, samples)
        logger.info("decoding on %s; shown in %s", describe_device(device), " and ".join(boards.names) or "no board")
        with closing(boards), _stop_at_signals():
            _work(decoder, boards, samples, every_s=arguments.every if arguments.watch else None)
    return {
        "run": str(run),
        "decoded": decoder.num_decoded,
        "ended_at_once": len(decoder.empty),
        "failed": decoder.failed,
        "boards": boards.names,
    }, EXIT_SHORT if decoder.failed else EXIT_FINE


def _work(decoder: "SampleDecoder", boards: SampleBoards, samples: Path, every_s: float | None) -> None:
    """Decode and show what there is; with `every_s`, look again after so many seconds until told to stop."""
    try:
        while True:
            for step, folder in list_steps(samples):
                paths = decoder.decode(folder)
                if paths and boards.lacks(step, paths):
                    boards.show(step, [read_sound(path) for path in paths])
            if every_s is None:
                return
            time.sleep(every_s)
    except KeyboardInterrupt:
        logger.info("told to stop; what is not done yet is done next time")


def list_steps(samples: Path) -> list[tuple[int, Path]]:
    """Return the steps that have samples, and their folders, in order."""
    found = [(STEP_FOLDER.fullmatch(path.name), path) for path in samples.glob("step_*")]
    return sorted((int(name[1]), path) for name, path in found if name is not None)


class SampleDecoder:
    """Decodes the samples of one step after another; one that cannot be is named once and passed over."""

    def __init__(self, codec: VaeCodec) -> None:
        """Take the VAE."""
        self._codec = codec
        self.num_decoded = 0
        self.empty: set[Path] = set()
        """Samples that the model ended at once: there is nothing to hear."""
        self.failed: dict[str, str] = {}
        """What is wrong, by file."""

    def decode(self, folder: Path) -> list[Path]:
        """Write the audio of a step's samples where it is missing and return all audio files of the step."""
        paths = []
        for sample in sorted(folder.glob("*.safetensors")):
            target = sample.with_suffix(".flac")
            if not target.exists() and not self._decode(sample, target):
                continue
            paths.append(target)
        return paths

    def _decode(self, sample: Path, target: Path) -> bool:
        """Write one sample's audio; return whether there is any."""
        if sample in self.empty or str(sample) in self.failed:
            return False
        try:
            latents = _read_latents(sample, self._codec.latent_channels)
            if not len(latents):
                self.empty.add(sample)
                logger.info("%s: the model ended the song at once; there is nothing to decode", sample)
                return False
            partial = target.with_name(f".{target.name}.partial.flac")
            write_song(partial, latents, self._codec)
            partial.replace(target)
        except InputError:  # a wrong VAE, which is of no use for any sample
            raise
        except (CheckpointError, ValueError) as error:
            self.failed[str(sample)] = str(error)
            logger.warning("%s: cannot be decoded: %s", sample, error)
            return False
        except FileNotFoundError:
            if sample.exists():
                raise
            return False  # a resumed run writes the step anew just now
        self.num_decoded += 1
        logger.info("%s: %.1f s", target, len(latents) / FRAME_RATE_HZ)
        return True


def _read_latents(path: Path, num_channels: int) -> NDArray[np.float32]:
    """Return the latents [T, C] of a sample.

    Raises:
        CheckpointError: the file is damaged.
        InputError: they are another VAE's.
        ValueError: no latents.
    """
    found = dict(read_tensors(path)).get("latents")
    if found is None or found.ndim != 2 or not found.is_floating_point():
        raise ValueError("expected latents [T, C] in it, as a training run writes them")
    if found.shape[1] != num_channels:
        raise InputError(
            f"{path}: latents of {found.shape[1]} channels, but the VAE has {num_channels}; name with --vae the one "
            "that the dataset was encoded with"
        )
    latents: NDArray[np.float32] = found.float().numpy()
    return latents


def read_sound(path: Path) -> Sound:
    """Return an audio file as boards take it."""
    samples, sample_rate = soundfile.read(path, dtype="int16", always_2d=True)
    wav = io.BytesIO()
    soundfile.write(wav, samples, sample_rate, format="WAV", subtype="PCM_16")
    num_frames, num_channels = samples.shape
    return Sound(
        name=path.stem, path=path, wav=wav.getvalue(),
        sample_rate=sample_rate, num_channels=num_channels, num_frames=num_frames,
    )  # fmt: skip


@contextmanager
def _stop_at_signals() -> Iterator[None]:
    """Let SIGTERM stop the work as Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = CommandParser(prog="decode_samples.py", description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="folder of a training run")
    parser.add_argument("--watch", action="store_true", help="wait for more samples, until Ctrl-C or SIGTERM")
    parser.add_argument("--every", type=float, default=30.0, help="seconds between looks with --watch (default: 30)")
    parser.add_argument(
        "--device", choices=("auto", "cuda", "cpu"), default="cpu",
        help="default: cpu, as a run that goes on needs its GPUs",
    )  # fmt: skip
    add_model_flags(parser, ("vae",))
    return parser.parse_args()


if __name__ == "__main__":
    run_command(main)
