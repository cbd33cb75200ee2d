"""Latencies: collected cheaply, kept in an HDR histogram, added up over processes."""

from collections import Counter
from collections.abc import Iterable

from hdrh.histogram import HdrHistogram  # type: ignore[import-untyped]

_HOUR = 3_600_000_000  # microseconds, in which all histograms count


def percentile_ms(histogram: HdrHistogram, percentile: float) -> float | None:
    """Return a percentile in milliseconds; None where nothing was recorded."""
    if not histogram.get_total_count():
        return None
    return float(histogram.get_value_at_percentile(percentile)) / 1000


def merge(encoded: Iterable[bytes], digits: int = 3) -> HdrHistogram:
    """Add up histograms of several processes that keep as many digits."""
    total = HdrHistogram(1, _HOUR, digits)
    for histogram in encoded:
        total.decode_and_add(histogram)
    return total


class Recorder:
    """Takes what arrives in one load process.

    A message counts when it arrives in the measured interval; its latency counts when it was due in it. So what a
    server owes at the interval's end still shows in the latencies.

    Attributes:
        count: What arrived in the measured interval.
        total: What arrived at any time.
    """

    def __init__(self) -> None:
        self.count = 0
        self.total = 0
        self._begin = self._end = 0
        self._histogram = HdrHistogram(1, _HOUR, 3)
        # Recording a value takes the histogram longer than a message may; equal ones are recorded together.
        self._measured: list[int] = []
        self._others: list[int] = []
        self._told = 0

    def measure(self, begin: int, end: int) -> None:
        """Set the measured interval, in times of `time.monotonic_ns`."""
        self._begin, self._end = begin, end

    def add(self, now: int, due: int) -> None:
        """Take one thing that arrives now and was due at another time."""
        self.total += 1
        if self._begin <= now < self._end:
            self.count += 1
        (self._measured if self._begin <= due < self._end else self._others).append((now - due) // 1000)

    def flush(self) -> tuple[int, bytes]:
        """Do the recording. Return what arrived since the last time: its number, and a histogram of two digits."""
        measured, others = Counter(self._measured), Counter(self._others)
        self._measured.clear()
        self._others.clear()
        _record(self._histogram, measured)
        recent = HdrHistogram(1, _HOUR, 2)
        _record(recent, measured + others)
        number, self._told = self.total - self._told, self.total
        return number, recent.encode()

    def encode(self) -> bytes:
        """Return the histogram of the measured interval, for :func:`merge`."""
        self.flush()
        encoded: bytes = self._histogram.encode()
        return encoded


def _record(histogram: HdrHistogram, latencies: Counter[int]) -> None:
    for latency, number in latencies.items():
        histogram.record_value(min(max(latency, 1), _HOUR), number)
