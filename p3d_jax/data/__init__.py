"""From encoded videos to batches: decoding, clips, crops, order."""
