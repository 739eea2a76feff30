"""The implementation of bench/run: one module per section, and shared modules."""
