"""Engines on NVIDIA GPUs: onnxruntime with CUDA, and TensorRT with its cache."""
