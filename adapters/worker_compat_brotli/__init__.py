"""The Brotli adapter: the decoder of `br` bodies."""

from .decoder import open_decoder as open_decoder

__all__ = ("open_decoder",)
