"""supcam: tells what type of chromosome cluster a crop shows."""
