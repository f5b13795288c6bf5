"""Quantization-aware training of 1.25-bit language models with PyTorch, on GPUs and clusters.

The twin of the Rust trainer (`crates/train`): same configuration files, same mathematics, same tokens in the same order,
same checkpoints. Every module is the counterpart of the Rust module of the same name.
"""

__version__ = "0.1.0"
