"""Corpus readers, one file each; the file's name is what a recipe calls it."""
