"""The relay on real sockets, byte for byte."""
