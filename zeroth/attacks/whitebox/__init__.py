"""Attacks that read the victim's gradients."""
