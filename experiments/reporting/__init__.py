"""Rows to figures and to the sections of a report; needs no model and no images."""
