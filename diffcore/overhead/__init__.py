"""What the method costs: measured in steps, images and epochs, estimated, and benchmarked."""
