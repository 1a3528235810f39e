"""Inference: loads models, finds and classifies digits, formats results."""
