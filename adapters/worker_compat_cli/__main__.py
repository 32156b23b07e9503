"""``python -m worker_compat_cli``."""

from .main import main

main()
