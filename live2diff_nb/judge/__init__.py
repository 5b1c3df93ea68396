"""Metrics, variants with a part missing, and the tables that weights are judged by."""
