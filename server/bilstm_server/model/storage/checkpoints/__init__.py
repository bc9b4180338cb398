"""Checkpoints as people save them: opened, the right dictionary taken, its weights folded."""
