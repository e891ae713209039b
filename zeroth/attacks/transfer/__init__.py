"""Attacks that craft on other models, and ask the box whether it is fooled too."""
