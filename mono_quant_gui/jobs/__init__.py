"""Work off the window: threads that host the engine's processes."""
