"""Fine-tuning methods: one file a method. The peft library owns their parameters, configuration, saving and merging."""
