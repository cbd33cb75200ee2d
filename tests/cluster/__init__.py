"""Nodes that share their rooms by way of a real Redis."""
