"""Lists of concepts: presets, answers of language models, nearest neighbours."""
