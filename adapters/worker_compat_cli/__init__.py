"""The command `worker-compat`: run a handler, list adapters, check an adapter."""
