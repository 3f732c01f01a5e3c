//! What a namespace consists of.
