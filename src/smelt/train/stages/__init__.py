"""Training stages (what is learnt from a batch), one file each."""
