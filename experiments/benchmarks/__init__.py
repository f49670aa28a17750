"""The measurements behind the choices of the package, each one command."""
