from tests.fast import compiles_fast

__all__ = ["compiles_fast"]
