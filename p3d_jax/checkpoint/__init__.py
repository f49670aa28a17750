"""The one on-disk format of networks, and the training runs that write it."""
