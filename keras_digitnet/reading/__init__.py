"""Models that answer, and what they say about pictures."""
