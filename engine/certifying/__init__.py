"""An artifact opened again and checked, by code that had no part in writing it."""
