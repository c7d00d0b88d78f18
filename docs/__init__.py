"""Parts of the documentation that are made by commands: `python -m docs.reference`, `python -m docs.pictures`."""
