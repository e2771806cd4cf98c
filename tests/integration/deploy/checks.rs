//! What the checkers of templates, of state machines and of OpenAPI documents say.
