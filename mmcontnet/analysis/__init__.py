"""What the tools show of models: counts, times, pictures."""
