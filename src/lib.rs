#![doc = include_str!("README.md")]

pub mod wire;

pub mod corefile;

pub mod files;

pub mod listen;

pub mod telemetry;

pub mod cluster;

pub mod source;

pub mod upstream;

pub mod chain;

pub mod plugins;

pub mod serve;

pub mod app;
