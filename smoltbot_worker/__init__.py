"""The smoltbot gateway, written only against worker_compat."""
