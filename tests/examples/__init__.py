"""Everything in ``examples/`` and in the README, run."""
