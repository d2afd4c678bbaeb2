"""The adapter: the one place that knows ComfyUI's own classes. Node faces and trce_ops do not."""
