"""Who is this, and may it pass."""
