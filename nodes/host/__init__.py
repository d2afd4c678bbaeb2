"""The adapter: the one place that knows ComfyUI's own classes. Node faces and trce_ops do not.

- families.py: which weights read the text, one row per model family
- readers.py: finds these weights in a MODEL
- encoders.py, sequence_encoder.py, prefix_tree.py, literal.py: a CLIP as trce_ops' text encoders
- apply.py: puts a delta on a MODEL
- denoiser.py: a MODEL as a differentiable function of its weights; soft_prompts.py: the same for a CLIP
- lend.py: what trce_ops.methods needs of a MODEL and a CLIP
- limits.py: what an erasure does not reach on a model
- weights.py, weight_names.py: weights by name, packed or patched; how other programs name them
- exchange.py: weights from and for other programs
- sampling.py: pictures of a MODEL, and its predictions on the way
- fingerprint.py: equal for models that compute the same
- folders.py, progress.py, errors.py: files, the progress bar, and errors about what is connected
"""
