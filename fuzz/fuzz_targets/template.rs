//! Any text as the lines of a stanza of *template*, and as a template and a record. A form feed precedes the name of
//! the queries.
#![no_main]

use clusterdns_fuzz::support::targets::run;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| run("template", data));
