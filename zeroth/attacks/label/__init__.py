"""Attacks that read the victim's labels alone."""
