"""The Zstandard adapter: the decoder of `zstd` bodies."""

from .decoder import open_decoder as open_decoder

__all__ = ("open_decoder",)
