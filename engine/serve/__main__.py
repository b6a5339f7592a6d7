"""The window's engine host: calls on stdin, answers on stdout."""

from engine.serve.host import main

main()
