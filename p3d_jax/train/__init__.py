"""Training: the config, the step, and the loop around it."""
