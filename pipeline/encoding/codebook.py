"""The semantic codebook: which of 16384 unit vectors a MuQ feature points at.

A factorised cosine quantiser (arXiv:2110.04627, arXiv:2306.06546): features are projected to few channels and
normalised, and the id is the code with the largest cosine. SongBloom's own codebook is unpublished; this one is fitted
on the user's songs by `pipeline.encoding.codebook_fitter`.

Shape legend: N feature vectors, D feature channels, E code channels, K codes.
"""

import json
import math
import reprlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor

from pipeline.gpu import ieee_float32
from pipeline.model_files.config_files import read_config
from pipeline.model_files.errors import ModelFileError
from pipeline.model_files.tensors import read_safetensors

Features = NDArray[np.float32]  # [N, D]

MODEL_TYPE = "cosine_codebook"  # of config.json
_CHUNK_VECTORS = 256  # cosines of one chunk with 16384 codes take 16 MiB: larger ones leave the caches, and are slower
_MAX_CODES = 1 << 16  # ids are stored as uint16
MODEL_TYPE = "cosine_codebook"  # in config.json
_TENSOR_NAMES = ("project_in", "center", "codes", "project_out", "bias_out")


class CodebookError(ValueError):
    """Features or settings that a codebook cannot use."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CodebookReport:
    """How well a codebook serves some features."""

    num_vectors: int
    usage: float  # share of codes that were used, 0 to 1
    perplexity: float  # exp of the entropy of the ids; `codebook_size` at best
    reconstruction_error: float  # squared error over variance: 0 is perfect, 1 is no better than the mean
    mean_cosine: float  # between projected features and their codes


class Codebook:
    """Maps features to ids and ids back to features; all arithmetic is IEEE float32, on a GPU as well."""

    def __init__(
        self,
        *,
        project_in: Tensor,  # [E, D]
        center: Tensor,  # [D]
        codes: Tensor,  # [K, E]; any length but zero, normalised here
        project_out: Tensor,  # [D, E]
        bias_out: Tensor,  # [D]
        metadata: dict[str, Any] | None = None,
        device: str = "cpu",
    ) -> None:
        """Check shapes and values.

        `metadata` is JSON that travels with the codebook. `SemanticTokenizer` refuses a codebook whose "muq_layer" or
        "muq_sha256" (of `pipeline.model_files.fingerprint.fingerprint_model`), where given, are not those of the MuQ it
        runs.
        """
        code_dim, feature_dim = project_in.shape
        shapes = {
            "center": (center, (feature_dim,)),
            "codes": (codes, (len(codes), code_dim)),
            "project_out": (project_out, (feature_dim, code_dim)),
            "bias_out": (bias_out, (feature_dim,)),
        }
        for name, (tensor, expected) in {"project_in": (project_in, project_in.shape), **shapes}.items():
            if tuple(tensor.shape) != tuple(expected):
                raise ModelFileError(f"codebook: {name} has shape {tuple(tensor.shape)}, expected {tuple(expected)}")
            if not tensor.is_floating_point() or not torch.isfinite(tensor).all():
                raise ModelFileError(f"codebook: {name} holds values that are not finite")
        norms = codes.float().norm(dim=1, keepdim=True)
        if not 1 <= len(codes) <= _MAX_CODES or (norms < 1e-6).any():
            raise ModelFileError(f"codebook: {len(codes)} codes, expected 1 to {_MAX_CODES}, none of them zero")
        self.project_in, self.center = project_in.float().to(device), center.float().to(device)
        # Unit vectors stay bit for bit what they are, so that saving and loading changes no id.
        self.codes = torch.where((norms - 1).abs() < 1e-6, codes.float(), codes.float() / norms).to(device)
        self.project_out, self.bias_out = project_out.float().to(device), bias_out.float().to(device)
        self.metadata = dict(metadata or {})
        self.feature_dim, self.codebook_dim, self.codebook_size = feature_dim, code_dim, len(codes)

    def encode(self, features: Features) -> NDArray[np.uint16]:
        """Return the ids uint16 [N] of features float32 [N, D]."""
        return self.encode_with_cosines(features)[0]

    @ieee_float32()
    def encode_with_cosines(self, features: Features) -> tuple[NDArray[np.uint16], Features]:
        """Return ids uint16 [N] and the cosine of each feature with its code, float32 [N]."""
        check_features(features, self.feature_dim)
        ids = np.empty(len(features), np.uint16)
        cosines = np.empty(len(features), np.float32)
        for start in range(0, len(features), _CHUNK_VECTORS):
            stop = start + _CHUNK_VECTORS
            directions = self.project(features[start:stop])
            best = (directions @ self.codes.T).max(dim=1)
            ids[start:stop] = best.indices.cpu().numpy().astype(np.uint16)
            cosines[start:stop] = best.values.cpu().numpy()
        return ids, cosines

    @ieee_float32()
    def project(self, features: Features) -> Tensor:
        """Return the unit vectors [N, E] that stand for features [N, D]; a feature equal to the centre gives zeros."""
        projected = (torch.tensor(features, device=self.codes.device) - self.center) @ self.project_in.T
        return torch.nn.functional.normalize(projected, dim=1)

    @ieee_float32()
    def decode(self, ids: NDArray[np.integer[Any]]) -> Features:
        """Return the feature float32 [N, D] that each id stands for."""
        if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < self.codebook_size:
            raise CodebookError(f"ids from {ids.min()} to {ids.max()}, expected 0 to {self.codebook_size - 1}")
        index = torch.from_numpy(ids.astype(np.int64)).to(self.codes.device)
        decoded: Features = (self.codes[index] @ self.project_out.T + self.bias_out).cpu().numpy()
        return decoded

    def measure(self, batches: Iterable[Features]) -> CodebookReport:
        """Return exact figures over a stream of features [N, D], with the codebook as it is."""
        counts = np.zeros(self.codebook_size, np.int64)
        squared_error = cosine_sum = energy = 0.0
        center = self.center.cpu().numpy()
        for features in batches:
            ids, cosines = self.encode_with_cosines(features)
            counts += np.bincount(ids, minlength=self.codebook_size)
            squared_error += float(np.square(features - self.decode(ids), dtype=np.float64).sum())
            energy += float(np.square(features - center, dtype=np.float64).sum())
            cosine_sum += float(cosines.sum(dtype=np.float64))
        num_vectors = int(counts.sum())
        if num_vectors == 0:
            raise CodebookError("no features to measure the codebook on")
        return CodebookReport(
            num_vectors=num_vectors,
            usage=float((counts > 0).mean()),
            perplexity=perplexity(counts),
            reconstruction_error=squared_error / max(energy, 1e-20),
            mean_cosine=cosine_sum / num_vectors,
        )

    def save(self, folder: Path, *, dtype: torch.dtype = torch.float32, report: CodebookReport | None = None) -> None:
        """Write config.json and model.safetensors into `folder`, which is made if needed."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: getattr(self, name).to("cpu", dtype).contiguous() for name in _TENSOR_NAMES}
        config = {
            "model_type": MODEL_TYPE,
            "feature_dim": self.feature_dim,
            "codebook_dim": self.codebook_dim,
            "codebook_size": self.codebook_size,
            "metadata": self.metadata,
            **({} if report is None else {"report": asdict(report)}),
        }
        part = folder / "model.safetensors.part"
        part.write_bytes(save(tensors))  # safetensors' own save_file makes files that only their owner can read
        part.replace(folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, *, device: str = "cpu") -> "Codebook":
        """Read what `save` wrote.

        Raises:
            ModelFileError: missing or damaged files, or tensors that are not what config.json says.
        """
        config = read_config(folder / "config.json")
        if (kind := config.get("model_type", MODEL_TYPE)) != MODEL_TYPE:
            raise ModelFileError(f"{folder}: config.json says model_type {reprlib.repr(kind)}, expected {MODEL_TYPE!r}")
        weights = folder / "model.safetensors"
        tensors = read_safetensors(weights, "the weights of a codebook")
        if set(tensors) != set(_TENSOR_NAMES):
            raise ModelFileError(f"{weights}: tensors {sorted(tensors)}, expected {sorted(_TENSOR_NAMES)}")
        if tensors["project_in"].ndim != 2 or tensors["codes"].ndim != 2:
            raise ModelFileError(f"{weights}: project_in and codes must be matrices")
        metadata = config.get("metadata", {})
        if not isinstance(metadata, dict):
            raise ModelFileError(f"{folder}: config.json has metadata {metadata!r}, expected an object")
        try:
            codebook = cls(**tensors, metadata=metadata, device=device)
        except ModelFileError as error:
            raise ModelFileError(f"{weights}: {error}") from error
        for name in ("feature_dim", "codebook_dim", "codebook_size"):
            declared, found = config.get(name), getattr(codebook, name)
            if declared != found:
                raise ModelFileError(f"{folder}: config.json says {name} {declared}, the weights have {found}")
        return codebook


def check_features(features: Features, feature_dim: int) -> None:
    """Raise CodebookError unless `features` is a finite float32 [N, feature_dim]."""
    if features.ndim != 2 or features.shape[1] != feature_dim or features.dtype != np.float32:
        raise CodebookError(f"features are {features.dtype} {features.shape}, expected float32 [N, {feature_dim}]")
    if not np.isfinite(features).all():
        raise CodebookError("features hold values that are not finite")


def perplexity(counts: NDArray[Any]) -> float:
    """Return exp of the entropy of the distribution that `counts` describe; 0 for no counts."""
    total = float(counts.sum())
    if total <= 0:
        return 0.0
    shares = counts[counts > 0] / total
    return math.exp(-float((shares * np.log(shares)).sum()))
