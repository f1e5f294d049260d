//! Tests of *rewrite* with plugins that record the query that they get. `tests/scenarios/rewrite.dns` has most of them.
