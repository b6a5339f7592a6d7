"""Recipes that rebuild the bundled sample models from data every installation has."""
