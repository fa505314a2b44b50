"""The training loop, batches, schedule, resumable state."""
