"""Tests of the counters, the log, the trace and the metrics."""
