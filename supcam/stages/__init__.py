"""What runs a pipeline stage: where it reads and writes, its tracked run, and its command line."""
