"""How an exchange passes: admit, forward, inspect."""
