"""TFDS builders, one file per dataset."""
