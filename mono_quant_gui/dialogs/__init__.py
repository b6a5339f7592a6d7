"""Dialogs; each takes what it needs and says what was decided."""
