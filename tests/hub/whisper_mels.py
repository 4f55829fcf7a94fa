"""Whisper base with the inputs and tokens of large-v3: 128 mel bands, and a token for Cantonese.

The packaged base knows 80 mel bands and 99 languages. What large-v3 has more is worked into its weights, so that the
result still hears: the first convolution gets the 80 bands back from the 128, and a row of the embeddings is added.
"""

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .ctranslate2_file import read_model, write_model

NUM_MELS = 128
NUM_TOKENS = 51_866
_SAMPLE_RATE_HZ, _FFT_SAMPLES = 16_000, 400
_LOG_MEL_SCALE = 4.0  # Whisper divides log10 of a band's energy by it
_NEW_TOKEN, _NEW_ID = "<|yue|>", 50_358  # large-v3 puts it behind the 99 languages, and what follows moves by one
_LIKE_ID = 50_260  # "<|zh|>": the new token's row is a copy of it
_NAMED_OTHERWISE = {"<|nocaptions|>": "<|nospeech|>"}


def write_large_v3_inputs(base: Path, config: Path, folder: Path) -> None:
    """Turn Whisper base into a model with the inputs and tokens of large-v3, as faster-whisper reads it.

    Args:
        base: folder of the packaged base (`find_whisper`).
        config: config.json of large-v3; its alignment heads are replaced by those of base, which has fewer layers.
        folder: where model.bin, config.json, tokenizer.json and vocabulary.json are written.
    """
    model = read_model(base / "model.bin")
    weight, bias = (model.variables[f"encoder/conv1/{name}"].astype(np.float32) for name in ("weight", "bias"))
    to_80, offset = _bands_from_128(weight.shape[1])
    model.variables["encoder/conv1/weight"] = np.einsum("oik,ij->ojk", weight, to_80).astype(np.float16)
    # At the two ends of a window the convolution sees zeros in place of a frame; there this is not exact.
    model.variables["encoder/conv1/bias"] = (bias + np.einsum("oik,i->o", weight, offset)).astype(np.float16)
    embeddings = model.variables["decoder/embeddings/weight"]
    model.variables["decoder/embeddings/weight"] = np.insert(embeddings, _NEW_ID, embeddings[_LIKE_ID], axis=0)
    folder.mkdir(parents=True, exist_ok=True)
    write_model(folder / "model.bin", model)
    heads = json.loads((base / "config.json").read_text())["alignment_heads"]
    settings = json.loads(config.read_text()) | {"alignment_heads": heads}
    (folder / "config.json").write_text(json.dumps(settings, indent=2) + "\n")
    tokens = (base / "vocabulary.txt").read_text(encoding="utf-8").split("\n")[:-1]
    tokens.insert(_NEW_ID, _NEW_TOKEN)
    (folder / "vocabulary.json").write_text(json.dumps([_NAMED_OTHERWISE.get(t, t) for t in tokens], indent=2))
    tokenizer = _extend_tokenizer(base / "tokenizer.json", tokens)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, indent=2, ensure_ascii=False), encoding="utf-8")


def _bands_from_128(num_bands: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return what turns log energies of 128 bands into those of fewer: [num_bands, 128], and an offset [num_bands].

    Interpolates at the centre frequencies; the filters have equal area, so that a smooth spectrum has the same level
    in both. The offset is what a flat spectrum is off by: the lowest filters are narrower than a bin of the transform.
    """
    from faster_whisper.feature_extractor import FeatureExtractor

    filters = [FeatureExtractor.get_mel_filters(_SAMPLE_RATE_HZ, _FFT_SAMPLES, n) for n in (num_bands, NUM_MELS)]
    few, many = (np.log10(np.maximum(bank.sum(axis=1), 1e-10)) for bank in filters)
    few_hz, many_hz = (_centres_hz(n) for n in (num_bands, NUM_MELS))
    matrix = np.stack([np.interp(few_hz, many_hz, row) for row in np.eye(NUM_MELS)], axis=1)
    return matrix.astype(np.float32), ((few - matrix @ many) / _LOG_MEL_SCALE).astype(np.float32)


def _centres_hz(num_bands: int) -> NDArray[np.float64]:
    import librosa

    centres: NDArray[np.float64] = librosa.mel_frequencies(num_bands + 2, fmax=_SAMPLE_RATE_HZ / 2)[1:-1]
    return centres


def _extend_tokenizer(path: Path, tokens: list[str]) -> dict[str, object]:
    """Add the new token, and everything behind it under its new id, time stamps too, as large-v3 lists them."""
    tokenizer: dict[str, object] = json.loads(path.read_text(encoding="utf-8"))
    added = tokenizer["added_tokens"]
    assert isinstance(added, list)
    kinds = {entry["content"]: entry for entry in added}
    timed = added[0] | {"normalized": True, "special": False}
    first = added[0]["id"]
    tokenizer["added_tokens"] = [
        kinds.get(token, timed) | {"id": index, "content": _NAMED_OTHERWISE.get(token, token)}
        for index, token in enumerate(tokens[first:], first)
    ]
    template = tokenizer["post_processor"]
    assert isinstance(template, dict)
    for name, entry in template["special_tokens"].items():
        entry["ids"] = [tokens.index(name)]
    return tokenizer
