"""Bridges to platforms of others; none of them is needed elsewhere."""
