"""Every scan kernel and fused iteration on one device."""
