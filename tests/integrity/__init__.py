"""Checks from end to end: a gateway, a provider and an analyser as processes, and what ends in the records."""
