"""What operators see: counters, metrics, logs and traces."""
