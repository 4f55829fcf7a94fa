"""Fitting a codebook on a stream of features: bounded memory, any number of workers, the same result every time.

Two phases over the stream. `add_moments` measures mean and covariance and keeps a uniform sample; `start` makes of them
a projection on the largest principal components and a first set of codes. `update` then moves the codes by spherical
k-means in steps of many vectors; dead codes are put back where the error is large (as in arXiv:2306.06546).

The result depends on the order of the vectors, not (up to rounding) on how they are cut into batches. With several
workers each one collects its share (`add_moments` on a fitter with a `stream` of its own, `collect` on the codes of the
step) and the shares add up with `merge_moments` and `CodeStatistics.merge`.

Shape legend: N feature vectors, D feature channels, E code channels, K codes.
"""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.encoding.codebook import Codebook, CodebookError, CodebookReport, Features, check_features, perplexity
from shards.schema import CODEBOOK_SIZE

Doubles = NDArray[np.float64]
State = dict[str, NDArray[Any]]

_SAMPLE_STREAM, _REVIVAL_STREAM, _FILL_STREAM = range(3)  # one stream of random numbers per use
_MIN_VARIANCE_RATIO = 1e-6  # components below this share of the largest are noise: whitening must not blow them up
_RIDGE = 1e-6  # keeps the output projection defined when few codes are in use
_CHUNK_VECTORS = 4_096  # features taken at once, so that memory does not grow with the batch
_CODEBOOK_TENSORS = ("project_in", "center", "codes", "project_out", "bias_out")
_MOMENTS = ("num_seen", "mean", "scatter", "sample_keys", "sample")
_PROGRESS = ("num_steps", "sums", "ages", "last_used", "usage", "totals", "gram", "cross")


@dataclass(slots=True)
class CodeStatistics:
    """What a share of one step says about the codes; sums in float64, so that the order of shares hardly matters."""

    counts: NDArray[np.int64]  # [K]
    sums: Doubles  # [K, E] of the unit vectors that fell to each code
    gram: Doubles  # [E+1, E+1] and cross [D, E+1]: normal equations of features on (code, 1)
    cross: Doubles
    totals: Doubles  # [3] squared error, energy about the mean, cosine with the code
    revival_keys: Doubles  # [R], the smallest ones
    revivals: Features  # [R, E] unit vectors that dead codes may become

    @property
    def num_vectors(self) -> int:
        """How many vectors the share had."""
        return int(self.counts.sum())

    def merge(self, other: "CodeStatistics") -> None:
        """Add another share of the same step."""
        for name in ("counts", "sums", "gram", "cross", "totals"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.revival_keys, self.revivals = _smallest(
            np.concatenate([self.revival_keys, other.revival_keys]),
            np.concatenate([self.revivals, other.revivals]),
            _max_revivals(len(self.counts)),
        )


_STATISTICS = tuple(item.name for item in fields(CodeStatistics))


class CodebookFitter:
    """Fits a `Codebook`; see the module."""

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        """How the codebook is fitted. 16384 codes of 32 channels follow LeVo's public quantiser of the same lab."""

        feature_dim: int
        codebook_size: int = CODEBOOK_SIZE
        codebook_dim: int = 32
        whitening: float = 0.5  # 0 keeps the variances of the components, 1 makes them equal
        step_vectors: int = 2 * CODEBOOK_SIZE  # vectors between two moves of the codes
        min_rate: float = 0.05  # a code's memory is about 1 / min_rate steps
        dead_after_steps: int = 8  # a code unused for so many steps is put elsewhere
        seed: int = 0
        stream: int = 0  # of random numbers; another one for each worker

    def __init__(self, config: Config, *, device: str = "cpu") -> None:
        """Start with nothing seen; `device` does the arithmetic of `update`."""
        if not 1 <= config.codebook_dim <= config.feature_dim:
            raise CodebookError(f"codebook_dim {config.codebook_dim}, expected 1 to feature_dim {config.feature_dim}")
        if config.codebook_size < 2 or config.step_vectors < 1 or not 0 < config.min_rate <= 1:
            raise CodebookError(f"codebook_size, step_vectors or min_rate out of range in {config}")
        self.config, self.device = config, device
        dim = config.feature_dim
        self._num_seen = np.zeros(2, np.int64)  # vectors of the first phase, of the second
        self._mean, self._scatter = np.zeros(dim), np.zeros((dim, dim))
        self._sample_keys: Doubles = np.empty(0)
        self._sample: Features = np.empty((0, dim), np.float32)
        self._codebook: Codebook | None = None
        self._pending: CodeStatistics | None = None
        self._num_steps = np.zeros((), np.int64)

    # ---- first phase: where the features lie

    def add_moments(self, features: Features) -> None:
        """Take features float32 [N, D] into mean, covariance and sample."""
        check_features(features, self.config.feature_dim)
        if self._codebook is not None:
            raise CodebookError("add_moments after start: the projection is fixed, call update")
        for start in range(0, len(features), _CHUNK_VECTORS):
            part = features[start : start + _CHUNK_VECTORS]
            mean = part.mean(axis=0, dtype=np.float64)
            centered = part - mean.astype(np.float32)
            self._add_scatter(len(part), mean, (centered.T @ centered).astype(np.float64))
            self._add_sample(self._uniform(_SAMPLE_STREAM, int(self._num_seen[0]), len(part)), part)
            self._num_seen[0] += len(part)

    def merge_moments(self, other: "CodebookFitter") -> None:
        """Add the first phase of a worker that saw other features with another `stream`."""
        if int(other._num_seen[0]) == 0:
            return
        self._add_scatter(int(other._num_seen[0]), other._mean, other._scatter)
        self._add_sample(other._sample_keys, other._sample)
        self._num_seen[0] += other._num_seen[0]

    def _add_scatter(self, count: int, mean: Doubles, scatter: Doubles) -> None:
        # Chan's pairwise update: exact for any cut, no difference of large sums.
        seen = int(self._num_seen[0])
        delta = mean - self._mean
        self._scatter += scatter + np.outer(delta, delta) * (seen * count / (seen + count))
        self._mean += delta * (count / (seen + count))

    def _add_sample(self, keys: Doubles, rows: Features) -> None:
        # The rows with the smallest random keys are a uniform sample, whoever saw them and in whatever order.
        if len(self._sample_keys) == self.config.codebook_size:
            is_candidate = keys < self._sample_keys[-1]
            if not is_candidate.any():
                return
            keys, rows = keys[is_candidate], rows[is_candidate]
        self._sample_keys, self._sample = _smallest(
            np.concatenate([self._sample_keys, keys]), np.concatenate([self._sample, rows]), self.config.codebook_size
        )

    def start(self) -> None:
        """Fix the projection and take the sample as the first codes."""
        if int(self._num_seen[0]) < 2:
            raise CodebookError(f"start after {self._num_seen[0]} features: call add_moments with at least 2 before")
        config = self.config
        axes, scale = self._principal_axes()
        random = np.random.default_rng([config.seed, config.stream, _FILL_STREAM])
        mean = torch.from_numpy(self._mean)
        codes = torch.from_numpy(random.standard_normal((config.codebook_size, config.codebook_dim)))
        project_in, project_out = torch.from_numpy((axes * scale).T.copy()), torch.from_numpy(axes / scale)
        self._codebook = _make_codebook([project_in, mean, codes, project_out, mean], self.device)
        directions = self._codebook.project(self._sample)
        has_direction = directions.norm(dim=1) > 0  # a feature equal to the mean has none
        self._codebook.codes[: len(directions)][has_direction] = directions[has_direction]
        self._sums = self._codebook.codes.cpu().numpy().astype(np.float64)
        self._ages, self._last_used = np.zeros((2, config.codebook_size), np.int64)
        self._usage, self._totals = np.zeros(config.codebook_size), np.zeros(3)
        statistics = self.collect(self._sample, offset=0)
        self._gram, self._cross = statistics.gram, statistics.cross
        self._solve_output()
        self._sample_keys, self._sample = self._sample_keys[:0], self._sample[:0]

    def _principal_axes(self) -> tuple[Doubles, Doubles]:
        """Return the largest principal axes [D, E] and the factor [E] that whitens each as far as asked."""
        variances, axes = np.linalg.eigh(self._scatter / int(self._num_seen[0]))
        order = np.argsort(variances)[::-1][: self.config.codebook_dim]
        variances, axes = variances[order], axes[:, order]
        axes *= np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])  # a sign of our own
        floor = max(float(variances[0]), 1e-12) * _MIN_VARIANCE_RATIO
        return axes, np.maximum(variances, floor) ** (-self.config.whitening / 2)

    # ---- second phase: the codes

    def update(self, features: Features) -> None:
        """Take features float32 [N, D]; the codes move whenever `step_vectors` have come together."""
        check_features(features, self.config.feature_dim)
        while len(features):
            room = self.config.step_vectors - (self._pending.num_vectors if self._pending else 0)
            statistics = self._collect_chunk(features[: min(room, _CHUNK_VECTORS)], int(self._num_seen[1]))
            features = features[statistics.num_vectors :]
            self._num_seen[1] += statistics.num_vectors
            if self._pending is None:
                self._pending = statistics
            else:
                self._pending.merge(statistics)
            if statistics.num_vectors == room:
                self.finish_step()

    def finish_step(self) -> None:
        """Move the codes with what is pending, if anything: at the end of the stream."""
        if self._pending is not None:
            self.apply(self._pending)
        self._pending = None

    def collect(self, features: Features, *, offset: int) -> CodeStatistics:
        """Return what features float32 [N > 0, D] say about the present codes, which stay as they are.

        Args:
            features: a share of one step.
            offset: number of vectors of this fitter's stream that came before: it picks the random numbers.
        """
        check_features(features, self.config.feature_dim)
        statistics = self._collect_chunk(features[:_CHUNK_VECTORS], offset)
        for start in range(_CHUNK_VECTORS, len(features), _CHUNK_VECTORS):
            statistics.merge(self._collect_chunk(features[start : start + _CHUNK_VECTORS], offset + start))
        return statistics

    def _collect_chunk(self, features: Features, offset: int) -> CodeStatistics:
        codebook = self._require_codebook()
        ids, cosines = codebook.encode_with_cosines(features)
        directions = codebook.project(features).cpu()
        sums = torch.zeros(codebook.codebook_size, codebook.codebook_dim, dtype=torch.float64)
        sums.index_add_(0, torch.from_numpy(ids.astype(np.int64)), directions.double())
        inputs = np.ones((len(features), codebook.codebook_dim + 1))
        inputs[:, :-1] = codebook.codes.cpu().numpy()[ids]
        squared_error = np.square(features - codebook.decode(ids), dtype=np.float64).sum()
        energy = np.square(features - self._mean).sum()
        # Exponential keys with the error as rate: the smallest are a sample in which large errors are likelier.
        keys = -np.log1p(-self._uniform(_REVIVAL_STREAM, offset, len(features))) / np.maximum(1.0 - cosines, 1e-6)
        revival_keys, revivals = _smallest(keys, directions.numpy(), _max_revivals(codebook.codebook_size))
        return CodeStatistics(
            counts=np.bincount(ids, minlength=codebook.codebook_size),
            sums=sums.numpy(),
            gram=inputs.T @ inputs,
            cross=features.T.astype(np.float64) @ inputs,
            totals=np.array([squared_error, energy, cosines.sum(dtype=np.float64)]),
            revival_keys=revival_keys,
            revivals=revivals,
        )

    def apply(self, statistics: CodeStatistics) -> None:
        """Move the codes one step with the statistics of all its vectors."""
        if statistics.num_vectors == 0:
            return
        used = statistics.counts > 0
        rates = np.maximum(self.config.min_rate, 1.0 / (self._ages[used, None] + 1))
        self._sums[used] += rates * (statistics.sums[used] - self._sums[used])
        self._ages[used] += 1
        step_rate = max(self.config.min_rate, 1.0 / (int(self._num_steps) + 1))
        self._totals += step_rate * (statistics.totals / statistics.num_vectors - self._totals)
        self._usage += step_rate * (statistics.counts / statistics.num_vectors - self._usage)
        self._gram += step_rate * (statistics.gram - self._gram)
        self._cross += step_rate * (statistics.cross - self._cross)
        self._num_steps += 1
        self._last_used[used] = self._num_steps
        self._revive(statistics)
        lengths = np.linalg.norm(self._sums, axis=1, keepdims=True)
        codebook = self._require_codebook()
        # Vectors that cancel out have no mean direction: such a code stays where it was.
        codes = np.where(lengths > 1e-9, self._sums / np.maximum(lengths, 1e-9), codebook.codes.cpu().numpy())
        codebook.codes = torch.from_numpy(codes).float().to(self.device)
        self._solve_output()

    def _revive(self, statistics: CodeStatistics) -> None:
        idle_steps = int(self._num_steps) - self._last_used
        dead = np.flatnonzero(idle_steps >= self.config.dead_after_steps)
        dead = dead[np.argsort(-idle_steps[dead], kind="stable")][: len(statistics.revivals)]
        self._sums[dead] = statistics.revivals[: len(dead)]
        self._ages[dead] = 0
        self._last_used[dead] = self._num_steps

    def _solve_output(self) -> None:
        codebook = self._require_codebook()
        ridge = _RIDGE * max(float(np.trace(self._gram)) / len(self._gram), 1e-12) * np.eye(len(self._gram))
        weights = np.linalg.solve(self._gram + ridge, self._cross.T).T  # [D, E+1]
        codebook.project_out = torch.from_numpy(weights[:, :-1]).float().to(self.device)
        codebook.bias_out = torch.from_numpy(weights[:, -1].copy()).float().to(self.device)

    # ---- results

    def codebook(self, metadata: dict[str, Any] | None = None) -> Codebook:
        """Return the codebook as it is now, as a copy."""
        present = self._require_codebook()
        return _make_codebook([getattr(present, name).clone() for name in _CODEBOOK_TENSORS], self.device, metadata)

    def report(self) -> CodebookReport:
        """Return running figures of the last steps; `Codebook.measure` gives exact ones."""
        self._require_codebook()
        error, energy, cosine = self._totals
        is_live = (self._ages > 0) & (self._num_steps - self._last_used < self.config.dead_after_steps)
        return CodebookReport(
            num_vectors=int(self._num_seen[1]),
            usage=float(is_live.mean()),
            perplexity=perplexity(self._usage),
            reconstruction_error=float(error / max(energy, 1e-20)),
            mean_cosine=float(cosine),
        )

    # ---- resume

    def state(self) -> State:
        """Return everything that `restore` needs, as plain arrays (safetensors or npz can hold them)."""
        state: State = {name: np.array(getattr(self, f"_{name}")) for name in _MOMENTS}
        if self._codebook is not None:
            state |= {name: np.array(getattr(self, f"_{name}")) for name in _PROGRESS}
            state |= {
                f"codebook.{name}": getattr(self._codebook, name).cpu().numpy().copy() for name in _CODEBOOK_TENSORS
            }
        if self._pending is not None:
            state |= {f"pending.{name}": np.array(getattr(self._pending, name)) for name in _STATISTICS}
        return state

    def restore(self, state: State) -> None:
        """Go on where `state` was taken, with the same `Config`."""
        feature_dim = len(state["mean"]) if "mean" in state else None
        if feature_dim != self.config.feature_dim:
            raise CodebookError(f"state of a fitter with feature_dim {feature_dim}, expected {self.config.feature_dim}")
        has_codes = "codebook.codes" in state
        found, expected = state.get("codebook.codes"), (self.config.codebook_size, self.config.codebook_dim)
        if found is not None and found.shape != expected:
            raise CodebookError(f"state of a fitter with codes {found.shape}, expected {expected}")
        for name in (*_MOMENTS, *(_PROGRESS if has_codes else ())):
            setattr(self, f"_{name}", state[name].copy())
        self._codebook = self._pending = None
        if has_codes:
            tensors = [torch.from_numpy(state[f"codebook.{name}"].copy()) for name in _CODEBOOK_TENSORS]
            self._codebook = _make_codebook(tensors, self.device)
        if "pending.counts" in state:
            self._pending = CodeStatistics(**{name: state[f"pending.{name}"].copy() for name in _STATISTICS})

    def _require_codebook(self) -> Codebook:
        if self._codebook is None:
            raise CodebookError("no codes yet: call add_moments with some features, then start")
        return self._codebook

    def _uniform(self, use: int, offset: int, count: int) -> Doubles:
        """Return random numbers `offset` to `offset + count` of a stream: they follow the vector, not the batch."""
        bits = np.random.PCG64(np.random.SeedSequence([self.config.seed, self.config.stream, use])).advance(offset)
        return np.random.Generator(bits).random(count)


def _make_codebook(tensors: list[Tensor], device: str, metadata: dict[str, Any] | None = None) -> Codebook:
    project_in, center, codes, project_out, bias_out = tensors
    return Codebook(
        project_in=project_in,
        center=center,
        codes=codes,
        project_out=project_out,
        bias_out=bias_out,
        metadata=metadata,
        device=device,
    )


def _max_revivals(codebook_size: int) -> int:
    return max(1, codebook_size // 8)  # dead codes that can move in one step


def _smallest(keys: Doubles, rows: Features, count: int) -> tuple[Doubles, Features]:
    """Return the `count` smallest keys, in order, and their rows."""
    order = np.argsort(keys, kind="stable")[:count]
    return keys[order], rows[order]
