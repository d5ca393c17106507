"""Offline pages from results."""
