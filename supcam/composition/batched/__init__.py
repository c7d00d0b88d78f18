"""Composition of whole batches at once, in torch on any device, by the rules of the composer beside it."""
