"""Reads a recipe (YAML) into typed stages and expands it into trials. Reading has no effects; no torch."""
