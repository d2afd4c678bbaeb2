"""Prompts and their embeddings: concepts as people type them, sentences, tokens, text encoders."""
