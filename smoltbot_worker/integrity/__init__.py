"""What was it thinking: thinking extracted, judged against the card, and the verdict made honest."""
