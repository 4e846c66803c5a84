"""Where items come from and where they are kept: readers, pictures, the index on disk."""
