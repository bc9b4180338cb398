"""CRFs: modules that own scores of transitions, and find the best path of tags with them."""

from .calls import decoding

__all__ = ["decoding"]
