"""What a run will need, from its settings and shapes alone: nothing is allocated and nothing runs."""
