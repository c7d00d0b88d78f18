"""Encoders, the momentum encoder, the key queue and the classifier."""
