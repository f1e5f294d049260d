//! Tests of the module as a whole: text in, tree and messages out.
