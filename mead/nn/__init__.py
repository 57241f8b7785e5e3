"""What the networks of several models share."""
