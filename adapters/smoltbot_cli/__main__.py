"""``python -m smoltbot_cli``."""

from .main import main

main()
