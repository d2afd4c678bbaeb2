"""Stage 2 of TRCE: contrastive tuning of the early denoising steps."""
