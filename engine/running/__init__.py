"""What runs a model: calibration, algorithms that need data, and measuring on data."""
