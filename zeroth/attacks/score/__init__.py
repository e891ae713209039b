"""Attacks that read the victim's scores."""
