from harness.quant.gguf import Header, TensorInfo, bits_per_weight, file_type, read_header  # noqa
