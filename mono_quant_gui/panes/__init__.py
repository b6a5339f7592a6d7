"""The window's panes. Each takes the session; none knows another."""
