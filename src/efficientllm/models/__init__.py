"""The one decoder, its slots (mixers, position, mlp), sizes, building, saving and loading."""
