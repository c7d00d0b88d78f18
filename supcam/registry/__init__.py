"""The model registry: packaging, promotion, history, and the light client."""
