"""Train the miniature models that ship with the project, on songs that it makes itself (CPU, fixed seeds).

Songs are rendered into --work once (needs the extra `miniatures`); a model that is there already is left alone.
With --measure nothing is trained: the models are measured on --songs, or on the training songs.
"""

import argparse
import logging
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jobs.command import EXIT_FINE, run_command
from pipeline.miniatures.training.corpus import Stems, load_corpus, make_corpus
from pipeline.model_files.names import MINIATURE_FOLDER

logger = logging.getLogger(__name__)

NUM_SONGS = 64
SEED = 0
MODELS = ("separator", "vae", "muq", "codebook")  # in this order: the codebook needs MuQ


def train_model(name: str, songs: list[Stems], out: Path) -> dict[str, Any]:
    """Train one model into `out/name` and return what is worth telling."""
    from pipeline.miniatures.training import codebook, muq, separator, vae

    if name == "codebook":
        return asdict(codebook.train(songs, out / name, muq_folder=out / "muq", seed=SEED))
    trainers: dict[str, Callable[..., None]] = {"separator": separator.train, "vae": vae.train, "muq": muq.train}
    trainers[name](songs, out / name, seed=SEED)
    return {}


def measure_model(name: str, songs: list[Stems], out: Path) -> dict[str, Any]:
    """Return the figures of one model; MuQ is measured with its codebook."""
    from pipeline.miniatures.training import quality

    if name == "separator":
        return quality.measure_separator(songs, out / name)
    if name == "vae":
        return quality.measure_vae(songs, out / name)
    return quality.measure_tokens(songs, out / "muq", out / "codebook") if name == "codebook" else {}


def main() -> tuple[dict[str, Any], int]:
    """Train or measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=MINIATURE_FOLDER, help="where the models go (default: the project's)"
    )
    parser.add_argument("--work", type=Path, default=Path("miniature_songs"), help="where the songs are rendered")
    parser.add_argument("--songs", type=Path, help="folder of songs with mixture.flac and vocals.flac: trained on too")
    parser.add_argument("--only", choices=MODELS, nargs="+", default=list(MODELS), help="these models only")
    parser.add_argument("--force", action="store_true", help="train what is there already, too")
    parser.add_argument("--measure", action="store_true", help="measure on --songs alone instead of training")
    parser.add_argument("--num-songs", type=int, default=NUM_SONGS, help=f"songs to render (default: {NUM_SONGS})")
    arguments = parser.parse_args()
    chosen = [name for name in MODELS if name in arguments.only]
    out: Path = arguments.out
    if arguments.measure:
        songs = load_corpus([arguments.songs or arguments.work])
        return {name: measure_model(name, songs, out) for name in chosen}, EXIT_FINE
    todo = [name for name in chosen if arguments.force or not (out / name / "model.safetensors").exists()]
    totals: dict[str, Any] = {"trained": todo, "left_alone": [name for name in chosen if name not in todo]}
    if todo:
        make_corpus(arguments.work, arguments.num_songs)
        songs = load_corpus([arguments.work, *([arguments.songs] if arguments.songs else [])])
        for name in todo:
            totals[name] = train_model(name, songs, out)
    return totals, EXIT_FINE


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    run_command(main)
