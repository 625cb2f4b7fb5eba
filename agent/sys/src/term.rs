//! The terminal of a person.
