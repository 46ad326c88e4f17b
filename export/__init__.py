"""From a trained detector to an artifact that runs on the target, and the proof that it is the same detector."""
