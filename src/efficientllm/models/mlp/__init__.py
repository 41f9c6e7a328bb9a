"""Feed-forward layers, one file each."""
