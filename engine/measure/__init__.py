"""What quantization did to a layer, in numbers."""
