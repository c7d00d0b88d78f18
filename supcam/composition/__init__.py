"""Category-variant composition: new clusters, with proper labels, from existing crops."""
