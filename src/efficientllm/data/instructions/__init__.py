"""Readers of instruction data: prompts with the responses that a model should learn to give, one file a kind."""
