//! Each role may do what its process does, and nothing else.
