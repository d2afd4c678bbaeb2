"""What the nodes show and how they check their widgets."""
