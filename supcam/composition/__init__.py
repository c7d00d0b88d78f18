"""Category-variant composition: new clusters, with proper labels, from the crops at hand."""
