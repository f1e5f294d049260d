#![doc = include_str!("README.md")]
#![warn(unreachable_pub)]

pub mod wire;

pub mod corefile;

pub mod files;

pub mod net;

pub mod telemetry;

pub mod admin;

pub mod cluster;

pub mod source;

pub mod stub;

pub mod upstream;

pub mod chain;

pub mod plugins;

pub mod serve;

pub mod explain;

pub mod app;
