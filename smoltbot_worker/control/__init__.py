"""What is done about a verdict: enforcement, nudges, webhooks."""
