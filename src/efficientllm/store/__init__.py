"""One JSON file a measurement is the truth; bundles carry it, an index answers SQL over it. No torch."""
