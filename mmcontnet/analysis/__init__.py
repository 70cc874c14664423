"""What the tools call: counts, throughput, receptive fields, predictions and export."""
