"""Training: data sets, objectives, the loop, checkpoints, and publishing the averaged weights."""
