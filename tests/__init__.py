"""Tests, one file for each promise or room: `test_<what holds>.py`.

What several tests or benchmarks share is in `tests/support`; no test imports another. Nothing in
the packages imports this folder. Markers (slow, gpu, s3, ray) are explained in pyproject.toml.

conftest.py  fixtures for every test: small checkpoints, an S3 server, `swath` commands
"""
