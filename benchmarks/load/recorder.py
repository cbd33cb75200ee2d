"""Recording of latencies in HDR histograms, which can be merged over processes."""

from collections import Counter
from collections.abc import Iterable

from hdrh.histogram import HdrHistogram  # type: ignore[import-untyped]

_HOUR = 3_600_000_000  # in microseconds, the unit of all histograms


def percentile_ms(histogram: HdrHistogram, percentile: float) -> float | None:
    """Return a percentile in milliseconds, or None without data."""
    if not histogram.get_total_count():
        return None
    return float(histogram.get_value_at_percentile(percentile)) / 1000


def merge(encoded: Iterable[bytes], digits: int = 3) -> HdrHistogram:
    """Merge encoded histograms with a number of significant digits."""
    total = HdrHistogram(1, _HOUR, digits)
    for histogram in encoded:
        total.decode_and_add(histogram)
    return total


class Recorder:
    """Records messages of a load process.

    A message is counted if it arrives in the measured interval; its latency is recorded if it was due in the interval.
    So messages that are late at the end of the interval are included in the latencies.

    Attributes:
        count: Number of messages that arrived in the measured interval.
        total: Number of all messages.
    """

    def __init__(self) -> None:
        self.count = 0
        self.total = 0
        self._begin = self._end = 0
        self._histogram = HdrHistogram(1, _HOUR, 3)
        # Recording values is slow, so they are collected, and equal values are recorded together.
        self._measured: list[int] = []
        self._others: list[int] = []
        self._reported = 0

    def measure(self, begin: int, end: int) -> None:
        """Set the measured interval, as times of `time.monotonic_ns`."""
        self._begin, self._end = begin, end

    def add(self, now: int, due: int) -> None:
        """Record a message that arrived now and was due at a time."""
        self.total += 1
        if self._begin <= now < self._end:
            self.count += 1
        (self._measured if self._begin <= due < self._end else self._others).append((now - due) // 1000)

    def flush(self) -> tuple[int, bytes]:
        """Record the collected values. Return number and histogram (two digits) of the messages since the last call."""
        measured, others = Counter(self._measured), Counter(self._others)
        self._measured.clear()
        self._others.clear()
        _record(self._histogram, measured)
        recent = HdrHistogram(1, _HOUR, 2)
        _record(recent, measured + others)
        number, self._reported = self.total - self._reported, self.total
        return number, recent.encode()

    def encode(self) -> bytes:
        """Return the histogram of the measured interval, for :func:`merge`."""
        self.flush()
        encoded: bytes = self._histogram.encode()
        return encoded


def _record(histogram: HdrHistogram, latencies: Counter[int]) -> None:
    for latency, number in latencies.items():
        histogram.record_value(min(max(latency, 1), _HOUR), number)
