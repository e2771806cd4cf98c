//! The stacks on an emulator: made, updated, ended; and the service on what they made.
