"""Tests of the transports, on real sockets."""
