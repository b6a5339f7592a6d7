"""One layer looked at: its figures and histograms, other formats tried on it, what hurts it and what might help."""
