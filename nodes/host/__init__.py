"""The adapter: everything that knows ComfyUI's own classes. Node faces and trce_ops do not."""
