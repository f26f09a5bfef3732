"""`make demo`: the whole chain, small, through the commands a user would type."""
