"""Readers of questions that a model answers, by the likeliest choice or in its own words, one file a kind."""
