"""Quantization: reading, writing, converting and quantizing model files."""
