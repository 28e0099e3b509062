"""Artifacts on disk: what they hold, how they are read and checked, written, sharded and found."""
