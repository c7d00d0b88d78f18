"""Contrastive losses: pure functions and thin modules around them."""
