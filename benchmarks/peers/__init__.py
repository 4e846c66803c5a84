"""What else there is for the same task, used as its own documentation says."""
