//! Any text as the lines of a stanza of *template*, and as a template, an expression and a record. Behind a form feed is the
//! name that is asked for.
#![no_main]

use clusterdns_fuzz::support::template::check_stanza;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| check_stanza(text));
