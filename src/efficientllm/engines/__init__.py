"""Who runs a model for inference, one file each."""
