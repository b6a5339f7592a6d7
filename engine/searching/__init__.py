"""Sensitivity of layers to schemes, and a scheme for every layer under a budget."""
