"""Clips to train and to judge on."""
