"""Networks on videos: evaluation of a split, prediction of files."""
