"""What a trial does: train, infer, judge quality, calibrate. Knows nothing of meters."""
