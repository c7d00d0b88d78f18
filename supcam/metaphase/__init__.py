"""From a microscope's picture of a whole metaphase to typed objects: segmentation, crops, drawings, files."""
