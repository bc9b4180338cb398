"""Models and weights on disk: how they are read, checked, written and imported."""
