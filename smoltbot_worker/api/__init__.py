"""How people look at it: the routes below ``/v1``."""
