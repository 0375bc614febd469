"""Benchmarks: timings against others' ways and the hardware; photographs with planted errors."""
