"""Admission: which records become documents, and with which bytes."""
