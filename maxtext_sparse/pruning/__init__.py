"""The pruning algorithm, in jax alone: which weights survive, how they are counted, and the optax wrapper."""
