"""How much of a file's audio is missing: cut off at its end, or damaged before it."""

import math

from pipeline.audio.file import AudioDecodeError

# A file that ends this much before its header's end has been cut; below it that is a warning.
MAX_CUT_SHARE = 0.01
# Of a file's length that damage in its middle may have taken: what is left is still the song, with holes.
MAX_LOST_SHARE = 0.05
# Encoders count their delay in what they call the length, or do not; without loss it is exact.
_LOSSY_TOLERANCE_S, _LOSSLESS_TOLERANCE_S = 0.1, 0.001
_LOSSY_WARNING_S = 0.03
_NEVER = math.inf
_MIN_GAP_S = 0.01  # between two frames; Matroska rounds their times to milliseconds
_MAX_FRAME_BYTES = 2_881  # of MPEG audio, layer III: the rest of a last frame that is cut is no junk


class Losses:
    """Counts what was decoded of one file and what was not; lengths in seconds."""

    def __init__(self) -> None:
        """Nothing has been read yet."""
        self.declared_s: float | None = 0.0  # length that all headers promise together, None where one says nothing
        self.junk_bytes = 0
        self._decoded_s = 0.0
        self._reached_s = 0.0  # by the clock of the frames
        self._gaps_s = 0.0
        self._tolerance_s = _LOSSLESS_TOLERANCE_S
        self._warning_s = _LOSSLESS_TOLERANCE_S
        self._went_on = False  # after a packet that could not be decoded
        self._is_open = False  # ends in something undecodable, and its length is not known
        self._stream_s = 0.0  # decoded of the stream that was begun last
        self._first_s = self._last_s = _NEVER  # when the first frame begins and the last one ends
        self._pending_bytes = 0

    def begin(self, *, is_lossless: bool) -> None:
        """Count another stream; the file consists of one, or of several one after the other."""
        if not is_lossless:
            self._tolerance_s, self._warning_s = _LOSSY_TOLERANCE_S, _LOSSY_WARNING_S
        self._first_s = self._last_s = _NEVER
        self._stream_s = 0.0

    def add_frame(self, start_s: float | None, length_s: float) -> None:
        """Count a decoded frame; `start_s` by its own clock, None where it has none."""
        if self._pending_bytes:
            self.junk_bytes += self._pending_bytes
            self._pending_bytes, self._went_on = 0, self._went_on or self._stream_s > 0
        self._stream_s += length_s
        if start_s is not None:
            if start_s - self._last_s > _MIN_GAP_S:
                self._gaps_s += start_s - self._last_s
            elif self._first_s == _NEVER:
                self._first_s = start_s
            self._last_s = start_s + length_s

    def add_undecoded(self, num_bytes: int) -> None:
        """Count bytes that could not be decoded."""
        self._pending_bytes += num_bytes

    def end(self, declared_s: float | None, share: float | None, *, may_end_in_junk: bool) -> None:
        """Close the stream that was begun last.

        Args:
            declared_s: length that its header promises, None where it says nothing.
            share: of the promised bytes that are there, in place of `declared_s` where a header says it.
            may_end_in_junk: whether its format leaves open if a last frame that cannot be decoded is one.
        """
        if share:  # where nothing is there, nothing was decoded
            declared_s = self._stream_s / share
        self.declared_s = None if declared_s is None or self.declared_s is None else self.declared_s + declared_s
        self._decoded_s += self._stream_s
        if self._first_s != _NEVER:
            self._reached_s += self._last_s - self._first_s
        if self._pending_bytes:
            self._is_open |= declared_s is None and not may_end_in_junk
            if self._pending_bytes > _MAX_FRAME_BYTES:
                self.junk_bytes += self._pending_bytes
        self._pending_bytes = 0

    def lost_s(self) -> float:
        """Return how much audio is missing, 0 where it is no more than encoders disagree about."""
        lost_s = self._gaps_s if self.declared_s is None else self.declared_s - self._decoded_s
        return lost_s if lost_s > self._warning_s else 0.0

    def judge(self) -> None:
        """Raise AudioDecodeError if too much is missing."""
        if self._is_open:
            raise AudioDecodeError("cut: the last frame cannot be decoded, and the header says no length")
        lost_s = self.lost_s()
        if self.declared_s is not None and not self._went_on:
            cut_s = self.declared_s - max(self._decoded_s, self._reached_s)
            if cut_s > MAX_CUT_SHARE * self.declared_s + self._tolerance_s:
                raise AudioDecodeError(
                    f"cut: the header promises {self.declared_s:.2f} s, {self._decoded_s:.2f} s could be decoded"
                )
        if lost_s > MAX_LOST_SHARE * (self._decoded_s + lost_s) + self._tolerance_s:
            raise AudioDecodeError(
                f"damaged: {lost_s:.2f} s of {self._decoded_s + lost_s:.2f} s could not be decoded, at most "
                f"{MAX_LOST_SHARE:.0%} may be lost"
            )
