"""Pipeline stages, one thin script each."""
