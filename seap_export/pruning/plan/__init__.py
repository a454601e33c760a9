"""From importance scores to a plan of what every layer keeps."""
