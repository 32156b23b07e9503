"""The command `worker-compat`, run as its users run it."""
