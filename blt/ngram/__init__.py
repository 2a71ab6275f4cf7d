"""An entropy model without a neural network: counts of byte n-grams, for one CPU core.

Needs NumPy and safetensors alone. docs/ngram.md has the formula and what it reaches.
"""
