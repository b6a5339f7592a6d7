"""Calls on modules in memory: quantized, validated, saved."""
