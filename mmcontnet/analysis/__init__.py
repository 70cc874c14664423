"""What the tools show of models and runs: curves, pictures, figures."""
