"""Sequences that are computed a piece at a time: slices of long ones, blocks of live ones."""
