"""Runs trials: fresh workers inside meters, from recipe to stored measurement."""
