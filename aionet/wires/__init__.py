"""Wires: the stream contract (`contract`) and its implementations."""
