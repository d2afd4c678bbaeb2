"""What dev.py is made of: set-up, a ComfyUI to drive, checks, verbs. The standard library is all that it imports."""
