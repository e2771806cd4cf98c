//! Who can reach whom, computed from the templates.
