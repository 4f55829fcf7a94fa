"""The miniature codebook: fitted on the miniature MuQ's features of the training songs."""

import logging
from collections.abc import Iterator
from pathlib import Path

import torch

from pipeline.encoding.codebook import CodebookReport, Features
from pipeline.encoding.codebook_fitter import CodebookFitter
from pipeline.encoding.semantic_tokens import SemanticTokenizer
from pipeline.miniatures.training.corpus import Stems
from pipeline.miniatures.training.muq import to_input
from pipeline.model_files.fingerprint import fingerprint_model
from pipeline.model_files.profiles import get_profile
from shards.schema import LATENT_SAMPLE_RATE_HZ, count_frames

logger = logging.getLogger(__name__)

PASSES = 4  # over all songs


def train(songs: list[Stems], folder: Path, *, muq_folder: Path, seed: int, passes: int = PASSES) -> CodebookReport:
    """Fit and save the codebook; return its figures on the songs."""
    layer = get_profile("miniature").muq_layer
    tokenizer = SemanticTokenizer(muq_folder, None, layer=layer)
    tokenizer.setup()
    features = list(_song_features(tokenizer, songs))
    fitter = CodebookFitter(CodebookFitter.Config(feature_dim=tokenizer.feature_dim, seed=seed))
    for rows in features:
        fitter.add_moments(rows)
    fitter.start()
    for done in range(passes):
        for rows in features:
            fitter.update(rows)
        logger.info("codebook pass %d of %d: %s", done + 1, passes, fitter.report())
    fitter.finish_step()
    metadata = {
        "muq_layer": layer,
        "muq_sha256": fingerprint_model(muq_folder, "muq"),
        "fitted_on": f"{len(songs)} synthetic songs",
    }
    codebook = fitter.codebook(metadata)
    report = codebook.measure(features)
    codebook.save(folder, dtype=torch.float16, report=report)
    return report


def _song_features(tokenizer: SemanticTokenizer, songs: list[Stems]) -> Iterator[Features]:
    for song in songs:
        yield tokenizer.features(to_input(song.mix), count_frames(song.vocals.shape[1], LATENT_SAMPLE_RATE_HZ))
