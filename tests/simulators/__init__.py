"""Pretend devices for tests."""
