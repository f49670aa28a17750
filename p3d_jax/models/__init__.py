"""The networks: convolutions, blocks, schedules, stem to head, and the zoo."""
