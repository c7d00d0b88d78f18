"""Review: crops that a person should see, as a page without a server, and the decisions taken back into the data."""
