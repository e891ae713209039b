"""What attacks and certification cost, measured against the floor that the victim itself sets."""
