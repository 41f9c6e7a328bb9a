"""Number formats of weights below 16 bits, one file a format; what is held is really that small."""
