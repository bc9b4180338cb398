"""Models as people write them, small and untrained, by what they are for."""
