"""Number formats of what an attention layer remembers of the tokens it has seen: one file a format."""
