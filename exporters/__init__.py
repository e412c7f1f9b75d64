"""Turn what guard makes into what other systems run. Needs ``onnx``; guard itself does not."""
